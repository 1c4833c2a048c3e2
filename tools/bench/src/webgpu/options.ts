import { parseArgs } from 'node:util';

/** What the command line asks for. */
export interface WebGPUOptions {
  /** A file for the results. */
  json?: string;
  /** Only rows whose name contains it. */
  filter: string;
  quick: boolean;
  /** In a page of Chromium, not in Node. */
  page: boolean;
}

export const webgpuUsage = `usage: npm run bench -- webgpu [--json FILE] [--filter TEXT] [--quick] [--page]

  --json FILE    also write the results there
  --filter TEXT  only the rows whose name contains TEXT
  --quick        a small layer, for a first look: nothing to judge a GPU by
  --page         in a page of Chromium, beside onnxruntime-web, not in Node`;

/**
 * Reads the command line.
 *
 * @throws Error with one sentence for the user
 */
export function readWebGPUOptions(args: readonly string[]): WebGPUOptions {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      json: { type: 'string' },
      filter: { type: 'string', default: '' },
      quick: { type: 'boolean', default: false },
      page: { type: 'boolean', default: false },
    },
  });
  if (positionals.join(' ') !== 'webgpu') {
    throw new Error(`The bench to run is "webgpu", not "${positionals.join(' ')}".`);
  }
  return { ...values };
}
