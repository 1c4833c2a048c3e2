import { parseArgs } from 'node:util';

/** What the command line asks for. */
export interface CudaOptions {
  /** A file for the results. */
  json?: string;
  /** Only rows whose name contains it. */
  filter: string;
  /** A checkpoint folder of gpt2-mini-peps, for the training step. */
  checkpoint?: string;
  /** Folders of a dense checkpoint, of what it was converted to, and of the data, for whole forward passes. */
  dense?: string;
  converted?: string;
  data?: string;
  /** The operating point that is held to the bar; the first one if not given. */
  point?: string;
  /** The folder of the Python peers; that of this workspace by default. */
  peers?: string;
  quick: boolean;
}

export const cudaUsage = `usage: npm run bench -- cuda [--json FILE] [--filter TEXT] [--checkpoint DIR] [--peers DIR] [--quick]
                                 [--dense DIR --converted DIR --data DIR [--point NAME]]

  --json FILE       also write the results there
  --filter TEXT     only the rows whose name contains TEXT
  --checkpoint DIR  a checkpoint folder of gpt2-mini-peps; without it the training step is left out
  --dense DIR, --converted DIR, --data DIR
                    a checkpoint, what it was converted to, and its data; without them forward passes are left out
  --point NAME      the converted checkpoint's operating point that has the bar (default its first)
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
      dense: { type: 'string' },
      converted: { type: 'string' },
      data: { type: 'string' },
      point: { type: 'string' },
      peers: { type: 'string' },
      quick: { type: 'boolean', default: false },
    },
  });
  if (positionals.join(' ') !== 'cuda') {
    throw new Error(`The bench to run is "cuda", not "${positionals.join(' ')}".`);
  }
  return { ...values };
}
