import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-layers';
import type { CudaBackend } from '@d2dmoe/backend-cuda';
import { Random } from '@d2dmoe/core';
import { initModel } from '@d2dmoe/models';
import { saveModel } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import { convert } from 'd2dmoe';
import { expect, test, vi } from 'vitest';
import {
  putCheckpoint,
  putData,
  temporaryFolder,
} from '../../../../apps/reference/testing/tiny.js';
import { emulated } from '../../../../packages/backend-cuda/testing/emulated.js';
import type { Times } from '../statistics.js';
import { bandwidthRows } from './bandwidth.js';
import { expectRight } from './check.js';
import { flatMemoryRows } from './flat-memory.js';
import { forwardRows, timeForwards } from './forward.js';
import { hostTimeRows } from './host-time.js';
import { productRows, smallProductCases } from './products.js';
import { settle, Torch } from './torch.js';
import { timeTraining, trainingRows } from './training.js';

const all = () => true;

test('a result is held to float64 row by row', () => {
  const expected = { values: Float64Array.of(1000, 1000, 1, 1), columns: 2 };
  expect(() => expectRight('it', [1000, 1000, 1, 1.000001], expected)).not.toThrow();
  expect(() => expectRight('it', [1000, 1000, 1, 1.001], expected)).toThrow('wrong result');
  expect(() => expectRight('it', [1000, 1000, 1, Number.NaN], expected)).toThrow('wrong result');
});

test('a peer that is not there is said to be absent', async () => {
  vi.stubEnv('PATH', '');
  const outcome = await settle(() => new Torch('.').run('torch_products.py'));
  vi.unstubAllEnvs();
  expect(outcome).toEqual({ error: new Error('not measured: there is no python3') });
});

emulated('rows of the card', (emulatedCuda) => {
  // The same class, whose types come from its sources here and from what was built there.
  const cuda = emulatedCuda as unknown as () => CudaBackend;
  const random = () => new Random(1);

  test('bandwidths are measured against the faster copy, and nothing is left behind', async () => {
    const { numTensors } = tf.memory();
    const rows = await bandwidthRows(cuda(), random(), all, 8);
    expect(tf.memory().numTensors).toBe(numTensors);
    expect(rows.map(({ error }) => error)).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
    const [copy, concat, add] = rows;
    const rates = Object.values(copy?.gigabytesPerSecond ?? {});
    expect(copy?.value).toBe(Math.max(...rates));
    for (const row of [concat, add]) {
      const [ours, measured] = Object.values(row?.gigabytesPerSecond ?? {});
      expect(measured).toBe(copy?.value);
      expect(row?.value).toBe((ours as number) / (measured as number));
    }
    // Three times 32 KiB, in milliseconds.
    const time = add?.times?.['tf.add']?.median as number;
    expect(add?.gigabytesPerSecond?.['tf.add']).toBeCloseTo((3 * 32_768) / (time * 1e6), 9);
  });

  test('a copy that copies nothing is not the measure', async () => {
    const copy = vi.spyOn(cuda(), 'copy').mockImplementation(() => {});
    const [row] = await bandwidthRows(cuda(), random(), (name) => name.includes('GB/s'), 8);
    copy.mockRestore();
    expect(Object.keys(row?.times ?? {})).toEqual(['copy kernel']);
  });

  test('host times are those of right results', () => {
    const rows = hostTimeRows(cuda(), random(), all, 20);
    expect(rows.map(({ error }) => error)).toEqual([undefined, undefined, undefined, undefined]);
    for (const { value } of rows) expect(value).toBeGreaterThan(0);
    expect(rows[0]?.bar).toEqual({ atMost: 12 });
  });

  test('training keeps its memory, and a leak is found', async () => {
    const onDevice = (name: string) => name.includes('device');
    expect(await flatMemoryRows(cuda(), random(), onDevice, 60)).toMatchObject([
      { value: 0, holds: true },
    ]);
    const leaky = random();
    const leaked: tf.Tensor[] = [];
    const integer = leaky.integer.bind(leaky);
    leaky.integer = (below) => {
      leaked.push(tf.keep(tf.zeros([256])));
      return integer(below);
    };
    const [row] = await flatMemoryRows(cuda(), leaky, onDevice, 60);
    tf.dispose(leaked);
    expect(row).toMatchObject({ value: null, holds: false });
    expect(row?.error).toContain('tensors behind');
  });

  test('training steps of a checkpoint are timed', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'd2dmoe-bench-'));
    const model = initModel(
      { model_type: 'gpt2', n_embd: 32, n_layer: 1, n_head: 2, vocab_size: 64, n_positions: 8 },
      random(),
    );
    await saveModel(model, folder);
    model.dispose();
    const { numTensors } = tf.memory();
    const sizes = { batch: 2, positions: 8, steps: 3, warmUp: 2 };
    const { step, loss } = await timeTraining(cuda(), folder, sizes);
    await rm(folder, { recursive: true });
    expect(step.runs).toBe(3);
    expect(step.median).toBeGreaterThan(0);
    expect(loss.last).toBeLessThan(loss.first);
    expect(tf.memory().numTensors).toBe(numTensors);
  });

  test('a training that cannot be run is a row that does not hold', async () => {
    const absent = () => Promise.reject(new Error('no torch'));
    const [row] = await trainingRows(cuda(), '/nowhere', absent, all);
    expect(row).toMatchObject({ bar: { atMost: 2 }, value: null, holds: false });
    expect(row?.error).toContain('/nowhere');
    const log = vi.spyOn(console, 'log').mockImplementation(() => {});
    expect(await trainingRows(cuda(), undefined, absent, all)).toEqual([]);
    expect(log.mock.calls.join()).toContain('left out training step');
    log.mockRestore();
  });

  test('products are compared with torch; without it none holds', async () => {
    const wanted = (name: string) => name.endsWith('cuda-own');
    const name = smallProductCases[0]?.name as string;
    const slow: Times = { median: 1e6, low: 1e6, high: 1e6, runs: 1 };
    const rows = (torch: () => Promise<unknown>) =>
      productRows(cuda(), random(), { cases: smallProductCases, torch, wanted });
    expect(await rows(() => Promise.resolve({ [name]: slow }))).toMatchObject([{ holds: true }]);
    const [row] = await rows(() => Promise.reject(new Error('no torch')));
    expect(row).toMatchObject({ value: null, holds: false, error: 'no torch' });
    expect(row?.times?.['cuda-own']?.median).toBeGreaterThan(0);
  });

  test('a converted model is timed beside the dense one at its operating points', async () => {
    const folder = await temporaryFolder();
    const [dense, converted, data] = ['dense', 'converted', 'data'].map((name) =>
      join(folder, name),
    ) as [string, string, string];
    await putCheckpoint(dense, 'bert');
    await putData(data, 'bert');
    const settings = {
      sparsify: { steps: 2, batchSize: 4 },
      finetune: { steps: 0 },
      split: { expertSize: 8 },
      route: { steps: 4, batchSize: 4, width: 8 },
      taus: [0, 0.5],
      budgets: [{ keep: 0.1 }, { cost: 1 }],
      samples: 8,
    };
    // The emulator would take minutes.
    await tf.setBackend('cpu');
    await convert({
      input: dense,
      output: converted,
      data: { directory: data, seed: 0 },
      seed: 0,
      settings,
    });
    await tf.setBackend('cuda');
    const { numTensors } = tf.memory();
    const turns = { rounds: 1, turn: 1 };
    const rows = await timeForwards(cuda(), { dense, converted, data, batch: 2, turns });
    expect(rows.map(({ name }) => name.replace(/ \(.*\)/, ''))).toEqual(
      ['replayed, keep-0.1', 'replayed, cost-1', 'called, keep-0.1', 'called, cost-1'].map(
        (which) => `forward pass of 2, ${which}: converted / dense`,
      ),
    );
    expect(rows.map(({ bar }) => bar)).toEqual([{ atMost: 1 }, undefined, undefined, undefined]);
    for (const { value, times } of rows) {
      expect(value).toBe((times?.['converted']?.median ?? 0) / (times?.['dense']?.median ?? 0));
    }
    expect(tf.memory().numTensors).toBe(numTensors);

    const asked = { filter: '', quick: false, dense, converted, data, point: 'keep-0.5' };
    const [failed] = await forwardRows(cuda(), asked, all);
    expect(failed?.error).toBe('The converted checkpoint has no operating point keep-0.5.');
    expect(failed?.holds).toBe(false);
    expect(await forwardRows(cuda(), { filter: '', quick: false }, all)).toEqual([]);
  }, 300_000);
});
