import { D2DMoEError } from '@d2dmoe/core';
import { expect, expectTypeOf, test } from 'vitest';
import { defineCommand, parseArguments, runProgram } from './arguments.js';

const convert = {
  name: 'convert',
  summary: 'Convert a dense checkpoint',
  positionals: [
    { name: 'CKPT', description: 'the checkpoint folder' },
    { name: 'BASE-DIR', description: 'the folder to look in', optional: true },
  ],
  options: [
    {
      flag: 'out',
      type: 'string',
      description: 'where to write',
      required: true,
      placeholder: 'DIR',
    },
    { flag: 'text-column', type: 'string', description: 'the column with the text' },
    {
      flag: 'rule',
      type: 'string',
      choices: ['threshold', 'top-k'],
      default: 'threshold',
      description: 'the selection rule',
    },
    { flag: 'tau', type: 'number', min: 0, max: 1, default: 0.5, description: 'the threshold' },
    { flag: 'steps', type: 'number', min: 1, integer: true, description: 'training steps' },
    { flag: 'delta', type: 'number', max: 0, description: 'the displacement' },
    { flag: 'force', type: 'boolean', description: 'start afresh' },
    { flag: 'resume', type: 'boolean', default: true, description: 'do not go on from before' },
    { flag: 'taus', type: 'list', of: 'number', min: 0, max: 1, description: 'thresholds to try' },
    {
      flag: 'parts',
      type: 'list',
      choices: ['ffn', 'attention'],
      default: ['ffn'],
      description: 'what to convert',
    },
  ],
} as const;

const parse = (...argv: string[]) => parseArguments(convert, argv);

/** The message of the USAGE error that `work` ends with. */
async function usageOf(work: () => unknown): Promise<string> {
  const error: unknown = await Promise.resolve()
    .then(work)
    .catch((error: unknown) => error);
  if (!D2DMoEError.isInstance(error)) throw new Error(`no D2DMoEError but ${String(error)}`);
  expect(error.code).toBe('USAGE');
  return error.message;
}

test('a variadic argument takes all that are left, at least one', async () => {
  const spec = {
    name: 'classify',
    summary: 'Classify',
    positionals: [
      { name: 'CKPT', description: 'the checkpoint folder' },
      { name: 'INPUT', description: 'what to classify', variadic: true },
    ],
    options: [{ flag: 'json', type: 'string', description: 'the file to write' }],
  } as const;
  const args = parseArguments(spec, ['model', 'a', '--json', 'out', 'b c', '--', '-d']);
  expect(args).toEqual({ ckpt: 'model', input: ['a', 'b c', '-d'], json: 'out' });
  expectTypeOf(args.input).toEqualTypeOf<string[]>();
  expect(await usageOf(() => parseArguments(spec, ['model']))).toContain('classify needs INPUT');
  let help = '';
  const command = defineCommand(spec, async () => {});
  const program = { name: 'd2dmoe', summary: '', commands: [command] };
  await runProgram(program, ['classify', '--help'], undefined, (text) => {
    help = text;
  });
  expect(help).toContain('Usage: d2dmoe classify CKPT INPUT… [options]');
});

test('values are converted, and what is not given has its default', () => {
  expect(parse('model', '--out', 'moe', '--tau=0.25', '--steps', '1e3', '--force')).toEqual({
    ckpt: 'model',
    baseDir: undefined,
    out: 'moe',
    textColumn: undefined,
    rule: 'threshold',
    tau: 0.25,
    steps: 1000,
    delta: undefined,
    force: true,
    resume: true,
    taus: [],
    parts: ['ffn'],
  });
});

test('the types of the values follow from the specification', () => {
  const args = parse('model', '--out', 'moe');
  expectTypeOf(args.ckpt).toEqualTypeOf<string>();
  expectTypeOf(args.baseDir).toEqualTypeOf<string | undefined>();
  expectTypeOf(args.out).toEqualTypeOf<string>();
  expectTypeOf(args.textColumn).toEqualTypeOf<string | undefined>();
  expectTypeOf(args.rule).toEqualTypeOf<'threshold' | 'top-k'>();
  expectTypeOf(args.tau).toEqualTypeOf<number>();
  expectTypeOf(args.steps).toEqualTypeOf<number | undefined>();
  expectTypeOf(args.force).toEqualTypeOf<boolean>();
  expectTypeOf(args.taus).toEqualTypeOf<number[]>();
  expectTypeOf(args.parts).toEqualTypeOf<('ffn' | 'attention')[]>();
});

test('options stand before, between and after positional arguments; "--" ends them', () => {
  expect(parse('--out', 'moe', 'model', '--tau', '1', 'base')).toMatchObject({
    ckpt: 'model',
    baseDir: 'base',
  });
  expect(parse('--out', 'moe', '--', '--odd-name')).toMatchObject({ ckpt: '--odd-name' });
});

test('the last one counts where an option is given twice', () => {
  expect(parse('m', '--out', 'a', '--out', 'b').out).toBe('b');
});

test('lists take commas and repetition, and replace their default', () => {
  expect(parse('m', '--out', 'o', '--taus', '0, .5', '--taus=1').taus).toEqual([0, 0.5, 1]);
  expect(parse('m', '--out', 'o', '--parts', 'attention').parts).toEqual(['attention']);
});

test('a minus sign begins a number and not an option', () => {
  expect(parse('m', '--out', 'o', '--delta', '-10').delta).toBe(-10);
  expect(parse('m', '--out', 'o', '--delta', '-.5').delta).toBe(-0.5);
});

test('a switch that is on by default is turned off by --no-', () => {
  expect(parse('m', '--out', 'o', '--no-resume').resume).toBe(false);
});

test.each<[string, string[], string]>([
  ['an unknown option', ['m', '--tua', '1'], 'unknown option --tua (did you mean --tau?)'],
  ['an unknown negation', ['m', '--no-resum'], '--no-resum (did you mean --no-resume?)'],
  ['an unknown short option', ['m', '-x'], 'unknown option -x;'],
  ['a positional left out', ['--out', 'o'], 'convert needs CKPT: the checkpoint folder.'],
  [
    'one too many',
    ['m', 'b', 'x', '--out', 'o'],
    'unexpected argument "x": convert takes only CKPT BASE-DIR.',
  ],
  ['a required option left out', ['m'], 'convert needs --out DIR: where to write.'],
  ['a value left out at the end', ['m', '--out'], '--out needs a value: --out DIR.'],
  ['an option in place of a value', ['m', '--out', '--force'], '--out needs a value: --out DIR.'],
  ['a value for a switch', ['m', '--force=yes'], '--force is a switch and takes no value.'],
  ['no number', ['m', '--tau', 'half'], '--tau must be a number from 0 to 1, not "half".'],
  ['NaN', ['m', '--tau', 'NaN'], '--tau must be a number from 0 to 1, not "NaN".'],
  [
    'infinity',
    ['m', '--delta=-Infinity'],
    '--delta must be a number of at most 0, not "-Infinity".',
  ],
  [
    'a number beyond all',
    ['m', '--steps', '1e999'],
    '--steps must be a whole number of at least 1, not "1e999".',
  ],
  ['an empty number', ['m', '--tau='], '--tau must be a number from 0 to 1, not "".'],
  [
    'a hexadecimal',
    ['m', '--steps', '0x10'],
    '--steps must be a whole number of at least 1, not "0x10".',
  ],
  [
    'a number out of range',
    ['m', '--tau', '1.01'],
    '--tau must be a number from 0 to 1, not "1.01".',
  ],
  [
    'a fraction',
    ['m', '--steps', '1.5'],
    '--steps must be a whole number of at least 1, not "1.5".',
  ],
  [
    'no choice',
    ['m', '--rule', 'topk'],
    '--rule must be one of threshold, top-k, not "topk" (did you mean top-k?).',
  ],
  ['a bad item', ['m', '--taus', '0,2'], '--taus must be a number from 0 to 1, not "2".'],
  ['an empty item', ['m', '--taus', '0,,1'], '--taus has an empty value in "0,,1".'],
])('%s is one clear sentence', async (_, argv, message) => {
  expect(await usageOf(() => parse(...argv))).toContain(message);
});

const calls: unknown[] = [];
const program = {
  name: 'd2dmoe',
  summary: 'Dense to dynamic-k',
  commands: [
    defineCommand(convert, async (args, context: string) => {
      calls.push([args.ckpt, args.tau, context]);
    }),
    defineCommand(
      { name: 'doctor', summary: 'Show the devices', positionals: [], options: [] },
      async () => {},
    ),
  ],
};

async function helpOf(...argv: string[]): Promise<string> {
  const printed: string[] = [];
  await runProgram(program, argv, '', (text) => printed.push(text));
  return printed.join('\n');
}

test('a program runs the command that is named, with its arguments and the context', async () => {
  expect(
    await runProgram(program, ['convert', 'm', '--out', 'o', '--tau', '0.1'], 'here'),
  ).toBeUndefined();
  expect(calls).toEqual([['m', 0.1, 'here']]);
});

test('an unknown command is met with the nearest one', async () => {
  expect(await usageOf(() => helpOf('convrt'))).toBe(
    'unknown command "convrt" (did you mean convert?); "d2dmoe --help" lists the commands.',
  );
  expect(await usageOf(() => helpOf('--verbose'))).toContain('unknown option "--verbose"');
  expect(await usageOf(() => helpOf('doctor', 'x'))).toBe(
    'unexpected argument "x": doctor takes only options.',
  );
});

test('help of the program, also where nothing is said', async () => {
  const help = await helpOf('--help');
  expect(help).toMatchInlineSnapshot(`
    "Dense to dynamic-k

    Usage: d2dmoe COMMAND [arguments] [options]

    Commands:
      convert  Convert a dense checkpoint
      doctor   Show the devices

    "d2dmoe COMMAND --help" describes one command."
  `);
  expect(await helpOf()).toBe(help);
  expect(await helpOf('-h')).toBe(help);
});

test('help of a command, whatever else is given', async () => {
  expect(await helpOf('convert', '--nonsense', '--help')).toMatchInlineSnapshot(`
    "Convert a dense checkpoint

    Usage: d2dmoe convert CKPT [BASE-DIR] --out DIR [options]

    Arguments:
      CKPT      the checkpoint folder
      BASE-DIR  the folder to look in

    Options:
      --out DIR                where to write (required)
      --text-column TEXT       the column with the text
      --rule threshold|top-k   the selection rule (default: threshold)
      --tau NUMBER             the threshold (default: 0.5)
      --steps COUNT            training steps
      --delta NUMBER           the displacement
      --force                  start afresh
      --no-resume              do not go on from before
      --taus NUMBER,…          thresholds to try
      --parts ffn|attention,…  what to convert (default: ffn)
      -h, --help               show this text"
  `);
});
