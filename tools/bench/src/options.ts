import { parseArgs } from 'node:util';

/** What the command line asks for. */
export interface Options {
  /** A file for the results. */
  json?: string;
  /** Only rows whose name contains it. */
  filter?: string;
  /** Threads of the expert op and of the peers beside it. */
  threads: number;
  rounds: number;
  quick: boolean;
}

export const usage = `usage: npm run bench -- cpu [--json FILE] [--filter TEXT] [--threads N] [--runs N] [--quick]

  --json FILE    also write the results there
  --filter TEXT  only the rows whose name contains TEXT
  --threads N    threads of the expert op and of its peers (default 1)
  --runs N       how often each participant gets its turn (default 21, quick 5)
  --quick        short turns, for a first look: too noisy to judge by

"npm run bench -- cuda" is the bench of the card.`;

/**
 * Reads the command line.
 *
 * @throws Error with one sentence for the user
 */
export function readOptions(args: readonly string[]): Options {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      filter: { type: 'string' },
      threads: { type: 'string' },
      runs: { type: 'string' },
      quick: { type: 'boolean', default: false },
    },
  });
  if (positionals.join(' ') !== 'cpu') {
    throw new Error(`The bench to run is "cpu" or "cuda", not "${positionals.join(' ')}".`);
  }
  const { json, filter, quick } = values;
  return {
    ...(json !== undefined && { json }),
    ...(filter !== undefined && { filter }),
    threads: count('threads', values.threads ?? '1'),
    rounds: count('runs', values.runs ?? (quick ? '5' : '21')),
    quick,
  };
}

function count(name: string, value: string): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1) {
    throw new Error(`--${name} must be a positive integer, not "${value}".`);
  }
  return number;
}
