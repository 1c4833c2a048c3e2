import { parseArgs } from 'node:util';
import { D2DMoEError } from '@d2dmoe/core';
import { commandHelp, optionSyntax, programHelp } from './help.js';
import { nearest } from './nearest.js';

/** An argument that is known by its place. */
export interface PositionalSpec {
  /** As help shows it, in capitals, and in camel case the key of its value: `CKPT` becomes `ckpt`. */
  readonly name: string;
  readonly description: string;
  /** Whether it may be left out; only the last ones may. */
  readonly optional?: boolean;
  /** Whether it takes all arguments that are left, as an array; only the last one may. */
  readonly variadic?: boolean;
}

interface OptionBase {
  /** Without dashes: `expert-size` is given as `--expert-size`, and its value's key is `expertSize`. */
  readonly flag: string;
  readonly description: string;
  /** Whether leaving it out is an error; an option with a default never needs it. */
  readonly required?: boolean;
}

/** An option with a text as its value. */
export interface StringOption extends OptionBase {
  readonly type: 'string';
  readonly default?: string;
  /** The only values allowed. */
  readonly choices?: readonly string[];
  /** What help calls the value; `TEXT` by default. */
  readonly placeholder?: string;
}

/** An option with one finite number as its value. */
export interface NumberOption extends OptionBase {
  readonly type: 'number';
  readonly default?: number;
  /** The smallest and the largest value allowed. */
  readonly min?: number;
  readonly max?: number;
  /** Whether the number has to be whole. */
  readonly integer?: boolean;
}

/** A switch: `--flag`, or `--no-flag` to turn off one that is on by default. */
export interface BooleanOption extends OptionBase {
  readonly type: 'boolean';
  readonly default?: boolean;
}

/** An option with any number of values, separated by commas or given by repeating the option. */
export interface ListOption extends OptionBase {
  readonly type: 'list';
  /** What each value is; `string` by default. The limits of {@link NumberOption} hold for each number. */
  readonly of?: 'string' | 'number';
  readonly default?: readonly (string | number)[];
  readonly choices?: readonly string[];
  readonly min?: number;
  readonly max?: number;
  readonly integer?: boolean;
  readonly placeholder?: string;
}

export type OptionSpec = StringOption | NumberOption | BooleanOption | ListOption;

/** A command: what it is called, what it does, what it takes. */
export interface CommandSpec {
  readonly name: string;
  /** One line, without a period. */
  readonly summary: string;
  readonly positionals: readonly PositionalSpec[];
  readonly options: readonly OptionSpec[];
}

type CamelCase<S extends string> = S extends `${infer Head}-${infer Tail}`
  ? `${Head}${Capitalize<CamelCase<Tail>>}`
  : S;

type OptionValue<O> = O extends { type: 'boolean' }
  ? boolean
  : O extends { type: 'number' }
    ? number
    : O extends { type: 'list'; of: 'number' }
      ? number[]
      : O extends { choices: readonly (infer C)[] }
        ? O extends { type: 'list' }
          ? C[]
          : C
        : O extends { type: 'list' }
          ? string[]
          : string;

/** Whether an option always has a value: switches are off and lists are empty where nothing else is said. */
type AlwaysSet<O> = O extends { type: 'boolean' | 'list' } | { required: true }
  ? true
  : O extends { default: string | number }
    ? true
    : false;

/** The options of a command by camel-case flag; without a default they may be undefined. */
export type OptionValues<C extends CommandSpec> = {
  [O in C['options'][number] as CamelCase<O['flag']>]: AlwaysSet<O> extends true
    ? OptionValue<O>
    : OptionValue<O> | undefined;
};

/** The positional arguments of a command by camel-case name. */
export type PositionalValues<C extends CommandSpec> = {
  [P in C['positionals'][number] as CamelCase<Lowercase<P['name']>>]: P extends { variadic: true }
    ? string[]
    : P extends { optional: true }
      ? string | undefined
      : string;
};

/** What the user gave to a command, checked and converted. */
export type ArgumentsOf<C extends CommandSpec> = PositionalValues<C> & OptionValues<C>;

/** A command with what it does. `Context` is what the program hands to each command, such as an AbortSignal. */
export interface Command<Context> {
  readonly spec: CommandSpec;
  run(argv: readonly string[], context: Context): Promise<void>;
}

/** A program: its name, what it does in one line, and its commands. */
export interface Program<Context> {
  readonly name: string;
  readonly summary: string;
  readonly commands: readonly Command<Context>[];
}

/** Ties a command's specification to a function that takes its arguments, with their types. */
export function defineCommand<const C extends CommandSpec, Context>(
  spec: C,
  main: (args: ArgumentsOf<C>, context: Context) => Promise<void>,
): Command<Context> {
  return { spec, run: (argv, context) => main(parseArguments(spec, argv), context) };
}

/**
 * Runs the command that `argv` names, or prints help where it is asked for or nothing was said.
 *
 * @param argv Without node and script: `process.argv.slice(2)`.
 * @param print Receives help texts.
 * @throws D2DMoEError `USAGE` where the command line is not right; what the command throws.
 */
export async function runProgram<Context>(
  program: Program<Context>,
  argv: readonly string[],
  context: Context,
  print: (text: string) => void = console.log,
): Promise<void> {
  const [name, ...rest] = argv;
  const specs = program.commands.map((command) => command.spec);
  if (name === undefined || isHelp(name)) {
    print(programHelp(program.name, program.summary, specs));
    return;
  }
  const command = program.commands.find(({ spec }) => spec.name === name);
  if (command === undefined) {
    const what = name.startsWith('-') ? 'option' : 'command';
    const guess = didYouMean(
      name,
      specs.map((spec) => spec.name),
    );
    throw usage(`unknown ${what} "${name}"${guess}; "${program.name} --help" lists the commands.`);
  }
  const end = rest.indexOf('--');
  if (rest.slice(0, end === -1 ? undefined : end).some(isHelp)) {
    print(commandHelp(program.name, command.spec));
    return;
  }
  await command.run(rest, context);
}

/**
 * The values that `argv` gives to a command's arguments.
 *
 * @param argv What follows the command's name.
 * @throws D2DMoEError `USAGE` for an unknown option, a missing or a superfluous argument, a value that is not allowed.
 */
export function parseArguments<const C extends CommandSpec>(
  spec: C,
  argv: readonly string[],
): ArgumentsOf<C> {
  const { tokens } = parseArgs({
    args: [...argv],
    options: Object.fromEntries(
      spec.options.map(({ flag, type }) => [
        flag,
        { type: type === 'boolean' ? 'boolean' : 'string', multiple: type === 'list' },
      ]),
    ),
    allowPositionals: true,
    allowNegative: true,
    // The checks are made below, where they can say what would be right.
    strict: false,
    tokens: true,
  });
  const values: Record<string, unknown> = {};
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    const option = spec.options.find(({ flag }) => token.rawName === `--${flag}`);
    const negated = spec.options.find(({ flag }) => token.rawName === `--no-${flag}`);
    if (option !== undefined) {
      const key = camelCase(option.flag);
      values[key] = readOption(option, token.value, token.inlineValue === true, values[key]);
    } else if (negated?.type === 'boolean' && token.value === undefined) {
      values[camelCase(negated.flag)] = false;
    } else {
      const flags = spec.options.map(({ flag, type }) =>
        type === 'boolean' && token.rawName.startsWith('--no-') ? `--no-${flag}` : `--${flag}`,
      );
      const guess = didYouMean(token.rawName, flags);
      throw usage(`unknown option ${token.rawName}${guess}; --help lists the options.`);
    }
  }
  for (const option of spec.options) {
    const key = camelCase(option.flag);
    if (key in values) continue;
    if (option.required)
      throw usage(`${spec.name} needs ${optionSyntax(option)}: ${option.description}.`);
    values[key] =
      option.type === 'boolean'
        ? (option.default ?? false)
        : option.type === 'list'
          ? [...(option.default ?? [])]
          : option.default;
  }
  return { ...readPositionals(spec, positionals), ...values } as ArgumentsOf<C>;
}

function readPositionals(
  spec: CommandSpec,
  given: string[],
): Record<string, string | string[] | undefined> {
  const extra = spec.positionals.at(-1)?.variadic ? undefined : given[spec.positionals.length];
  if (extra !== undefined) {
    const names = spec.positionals.map(({ name }) => name).join(' ') || 'options';
    throw usage(`unexpected argument "${extra}": ${spec.name} takes only ${names}.`);
  }
  const entries = spec.positionals.map(({ name, description, optional, variadic }, i) => {
    if (given[i] === undefined && !optional) {
      throw usage(`${spec.name} needs ${name}: ${description}.`);
    }
    return [camelCase(name.toLowerCase()), variadic ? given.slice(i) : given[i]];
  });
  return Object.fromEntries(entries) as Record<string, string | string[] | undefined>;
}

/** The value of an option that was given as `--flag value`, `--flag=value` (`inline`) or `--flag`. */
function readOption(
  option: OptionSpec,
  value: string | undefined,
  inline: boolean,
  earlier: unknown,
): unknown {
  const { flag } = option;
  if (option.type === 'boolean') {
    if (value !== undefined) throw usage(`--${flag} is a switch and takes no value.`);
    return true;
  }
  // A dash begins a value only where it is the sign of a number.
  const isNext = !inline && value !== undefined && /^-(?![\d.])./.test(value);
  if (value === undefined || isNext)
    throw usage(`--${flag} needs a value: ${optionSyntax(option)}.`);
  if (option.type === 'string') return checkChoice(option, value);
  if (option.type === 'number') return readNumber(option, value);

  const items = value.split(',').map((item) => item.trim());
  if (items.includes('')) throw usage(`--${flag} has an empty value in "${value}".`);
  const read = items.map((item) =>
    option.of === 'number' ? readNumber(option, item) : checkChoice(option, item),
  );
  return [...((earlier as unknown[] | undefined) ?? []), ...read];
}

function checkChoice({ flag, choices }: StringOption | ListOption, value: string): string {
  if (choices === undefined || choices.includes(value)) return value;
  throw usage(
    `--${flag} must be one of ${choices.join(', ')}, not "${value}"${didYouMean(value, choices)}.`,
  );
}

function readNumber(option: NumberOption | ListOption, value: string): number {
  const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value) ? Number(value) : Number.NaN;
  const { min = -Infinity, max = Infinity } = option;
  const kind = option.integer ? Number.isSafeInteger(number) : Number.isFinite(number);
  if (kind && number >= min && number <= max) return number;
  throw usage(`--${option.flag} must be ${describeNumber(option)}, not "${value}".`);
}

function describeNumber({ integer, min, max }: NumberOption | ListOption): string {
  const kind = integer ? 'a whole number' : 'a number';
  if (min !== undefined && max !== undefined) return `${kind} from ${min} to ${max}`;
  if (min !== undefined) return `${kind} of at least ${min}`;
  return max === undefined ? kind : `${kind} of at most ${max}`;
}

function didYouMean(word: string, known: readonly string[]): string {
  const guess = nearest(word, known);
  return guess === undefined ? '' : ` (did you mean ${guess}?)`;
}

function isHelp(argument: string): boolean {
  return argument === '--help' || argument === '-h';
}

function camelCase(kebab: string): string {
  return kebab.replaceAll(/-(.)/g, (_, letter: string) => letter.toUpperCase());
}

function usage(message: string): D2DMoEError {
  return new D2DMoEError('USAGE', message);
}
