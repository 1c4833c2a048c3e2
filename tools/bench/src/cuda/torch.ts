import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

/** The peers in Python, which measure torch on the same card. */
export class Torch {
  readonly #folder: string;
  #version: Promise<string> | undefined;

  /** @param folder Where the peers' scripts lie. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /**
   * Runs a script.
   *
   * @returns The JSON of its last line.
   * @throws Error that says why there is nothing: no python3, no torch in it, no card for torch, a script that failed.
   */
  async run(script: string, ...args: string[]): Promise<unknown> {
    this.#version ??= torchVersion();
    await this.#version;
    const output = await python([join(this.#folder, script), ...args]);
    return JSON.parse(output.split('\n').at(-1) ?? '');
  }
}

async function torchVersion(): Promise<string> {
  const ask = 'import torch; print(torch.__version__, torch.cuda.is_available())';
  const [version = '', isThere] = (await python(['-c', ask])).split(' ');
  if (isThere !== 'True') throw new Error(`not measured: torch ${version} finds no card`);
  console.log(`torch ${version}`);
  return version;
}

async function python(args: string[]): Promise<string> {
  try {
    const { stdout } = await execute('python3', args, { maxBuffer: 2 ** 26 });
    return stdout.trim();
  } catch (error) {
    const { code = '', stderr = '' } = error as { code?: string | number; stderr?: string };
    const last = stderr.trim().split('\n').at(-1);
    const reason = code === 'ENOENT' ? 'there is no python3' : `python3 says ${last || code}`;
    throw new Error(`not measured: ${reason}`, { cause: error });
  }
}

/** What a promise came to, or why it did not. */
export async function settle<T>(
  work: () => Promise<T>,
): Promise<{ value: T } | { error: unknown }> {
  try {
    return { value: await work() };
  } catch (error) {
    return { error };
  }
}
