import { fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { worstRowError } from './check.js';
import type { Loaded } from './memory-worker.js';
import { failedRow, type Row } from './row.js';
import { quantile } from './statistics.js';

const plan = {
  name: 'memory of a loaded model (GPT-2, 176 MB of weights): converted / dense',
  bar: { atMost: 1.15 },
};

/** The name of the row, to filter by. */
export const memoryRowName = plan.name;

/**
 * Loads a dense checkpoint and its conversion, each in a process of its own, and compares their resident sets after
 * the first forward pass.
 *
 * @param rounds How often; the median counts.
 */
export async function measureMemory(rounds: number): Promise<Row> {
  const folder = await mkdtemp(join(tmpdir(), 'd2dmoe-bench-'));
  try {
    await work('make', folder);
    const resident: Record<'dense' | 'converted', number[]> = { dense: [], converted: [] };
    for (let round = 0; round < rounds; round++) {
      const dense = await work('load', join(folder, 'dense'));
      const converted = await work('load', join(folder, 'converted'));
      const expected = { values: Float64Array.from(dense.logits), columns: dense.logits.length };
      const error = worstRowError(converted.logits, expected);
      if (!(error <= 1e-4)) {
        throw new Error(
          `A wrong result: with all experts the converted model's logits are off by ${error.toExponential(1)}.`,
        );
      }
      resident.dense.push(dense.resident / 2 ** 20);
      resident.converted.push(converted.resident / 2 ** 20);
    }
    const [dense, converted] = [quantile(resident.dense, 0.5), quantile(resident.converted, 0.5)];
    const value = converted / dense;
    return {
      ...plan,
      value,
      holds: value <= plan.bar.atMost,
      mebibytes: { dense: Math.round(dense), converted: Math.round(converted) },
    };
  } catch (error) {
    return failedRow(plan, error);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function work(task: 'make' | 'load', folder: string): Promise<Loaded> {
  const worker = fileURLToPath(new URL('./memory-worker.js', import.meta.url));
  const child = fork(worker, [task, folder], {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  });
  return new Promise((resolve, reject) => {
    child.once('message', (reply: Loaded | { error: string }) => {
      if ('error' in reply) reject(new Error(reply.error));
      else resolve(reply);
    });
    child.once('error', reject);
    child.once('exit', (code, signal) =>
      reject(new Error(`The process that was to ${task} a model ended with ${signal ?? code}.`)),
    );
  });
}
