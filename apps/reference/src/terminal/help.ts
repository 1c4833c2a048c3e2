import type { CommandSpec, OptionSpec } from './arguments.js';

/** What `d2dmoe --help` prints. */
export function programHelp(
  program: string,
  summary: string,
  commands: readonly CommandSpec[],
): string {
  return sections([
    summary,
    `Usage: ${program} COMMAND [arguments] [options]`,
    table(
      'Commands',
      commands.map((command) => [command.name, command.summary]),
    ),
    `"${program} COMMAND --help" describes one command.`,
  ]);
}

/** What `d2dmoe convert --help` prints. */
export function commandHelp(program: string, command: CommandSpec): string {
  const { name, summary, positionals, options } = command;
  const usage = [
    program,
    name,
    ...positionals.map(({ name, optional, variadic }) => {
      const shown = variadic ? `${name}…` : name;
      return optional ? `[${shown}]` : shown;
    }),
    ...options.filter((option) => option.required).map(optionSyntax),
    '[options]',
  ];
  return sections([
    summary,
    `Usage: ${usage.join(' ')}`,
    table(
      'Arguments',
      positionals.map((positional) => [positional.name, positional.description]),
    ),
    table('Options', [
      ...options.map((option): [string, string] => [optionSyntax(option), describe(option)]),
      ['-h, --help', 'show this text'],
    ]),
  ]);
}

/** How an option is given: `--tau NUMBER`, `--rule threshold|top-k`, `--no-resume`. */
export function optionSyntax(option: OptionSpec): string {
  const flag = `--${option.flag}`;
  if (option.type === 'boolean') return option.default ? `--no-${option.flag}` : flag;
  if (option.type === 'number') return `${flag} ${option.integer ? 'COUNT' : 'NUMBER'}`;
  const numbers = option.type === 'list' && option.of === 'number';
  const value = option.choices?.join('|') ?? option.placeholder ?? (numbers ? 'NUMBER' : 'TEXT');
  return `${flag} ${value}${option.type === 'list' ? ',…' : ''}`;
}

function describe(option: OptionSpec): string {
  if (option.required) return `${option.description} (required)`;
  if (option.type === 'boolean' || option.default === undefined) return option.description;
  const value = String(option.default);
  return value === '' ? option.description : `${option.description} (default: ${value})`;
}

function sections(texts: string[]): string {
  return texts.filter((text) => text !== '').join('\n\n');
}

/** Two columns under a title; where the left one is very long, the right one goes to a line of its own. */
function table(title: string, rows: readonly (readonly [string, string])[]): string {
  if (rows.length === 0) return '';
  const widest = 28;
  const column = Math.max(...rows.map(([left]) => (left.length <= widest ? left.length : 0)));
  const indent = '\n'.padEnd(column + 5);
  const lines = rows.map(([left, right]) => {
    const separator = left.length > widest ? indent : '  '.padStart(column - left.length + 2);
    return `  ${left}${separator}${right}`;
  });
  return [`${title}:`, ...lines].join('\n');
}
