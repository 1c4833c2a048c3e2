import { parseArgs } from 'node:util';

/** What the command line asks for. */
export interface CudaOptions {
  /** A file for the results. */
  json?: string;
  /** Only rows whose name contains it. */
  filter: string;
  /** A checkpoint folder of gpt2-mini-peps, for the training step. */
  checkpoint?: string;
  /** The folder of the Python peers; that of this workspace by default. */
  peers?: string;
  quick: boolean;
}

export const cudaUsage = `usage: npm run bench -- cuda [--json FILE] [--filter TEXT] [--checkpoint DIR] [--peers DIR] [--quick]

  --json FILE       also write the results there
  --filter TEXT     only the rows whose name contains TEXT
  --checkpoint DIR  a checkpoint folder of gpt2-mini-peps; without it the training step is left out
  --peers DIR       the folder of the Python peers (default tools/bench/peers)
  --quick           small sizes, for a first look: nothing to judge a card by`;

/**
 * Reads the command line.
 *
 * @throws Error with one sentence for the user
 */
export function readCudaOptions(args: readonly string[]): CudaOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      filter: { type: 'string', default: '' },
      checkpoint: { type: 'string' },
      peers: { type: 'string' },
      quick: { type: 'boolean', default: false },
    },
  });
  if (positionals.join(' ') !== 'cuda') {
    throw new Error(`The bench to run is "cuda", not "${positionals.join(' ')}".`);
  }
  return { ...values };
}
