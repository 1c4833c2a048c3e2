import { existsSync } from 'node:fs';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test, vi } from 'vitest';
import { onAdapter } from '../../../../packages/backend-webgpu/testing/adapter.js';
import { useWebGPU } from '../../../../packages/backend-webgpu/src/node.js';
import { type FeedForwardCase, feedForwardRows, smallFeedForwardCases } from './feed-forward.js';
import { chromiumPath, openBenchPage } from './page.js';
import { measurePeaks } from './peaks.js';

const turns = { rounds: 2, turn: 1 };
const peaks = { operationsPerMillisecond: 1e6, bytesPerMillisecond: 1e6 };
const barred: FeedForwardCase[] = smallFeedForwardCases.map((layer) => ({
  ...layer,
  overTfjs: 1e-9,
  ofDense: 1e-9,
}));

onAdapter('the bench of WebGPU', () => {
  test('times right results, in rows with their bars', async () => {
    await useWebGPU();
    const backend = tf.backend() as WebGPUBackend;
    const { numTensors } = tf.memory();
    for (const layerCase of barred) {
      const rows = await feedForwardRows(backend, layerCase, peaks, turns, (name) =>
        name.includes('d2dmoe /'),
      );
      expect(rows).toMatchObject([{ bar: { atMost: 1e-9 }, holds: false }]);
      const [{ value, times } = {}] = rows;
      const [ours, dense] = Object.values(times ?? {}).map(({ median }) => median);
      expect(value).toBe(Number(ours) / Number(dense));
    }
    expect(tf.memory().numTensors).toBe(numTensors);
  }, 120_000);

  test('a wrong result is not timed', async () => {
    await useWebGPU();
    const backend = tf.backend() as WebGPUBackend;
    const read = vi
      .spyOn(backend, 'read')
      .mockImplementation(async () => new Float32Array(64 * 40));
    const rows = await feedForwardRows(
      backend,
      barred[0] as FeedForwardCase,
      peaks,
      turns,
      () => true,
    );
    read.mockRestore();
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) {
      expect(row).toMatchObject({ value: null, holds: false });
      expect(row.error).toContain('A wrong result');
    }
  }, 120_000);

  test('a device’s own rates are measured', async () => {
    await useWebGPU();
    const { device } = tf.backend() as WebGPUBackend;
    const measured = await measurePeaks(device, 2 ** -13);
    expect(measured.operationsPerMillisecond).toBeGreaterThan(0);
    expect(measured.bytesPerMillisecond).toBeGreaterThan(0);
    // A wrong shader would be reported with the next tensor read.
    const sum = tf.tidy(() => tf.add(tf.ones([2000]), 1));
    expect((await sum.data())[0]).toBe(2);
    sum.dispose();
  }, 120_000);
});

test.skipIf(!existsSync(chromiumPath))(
  'a page of Chromium gives the same rows',
  async () => {
    const page = await openBenchPage();
    try {
      expect(page.name).toMatch(/., WebGPU in Chromium \d/);
      const wanted = 'tfjs-webgpu / d2dmoe';
      const rows = await page.rows(barred[1] as FeedForwardCase, peaks, turns, wanted);
      expect(rows).toMatchObject([{ bar: { atLeast: 1e-9 }, holds: true }]);
    } finally {
      await page.close();
    }
  },
  120_000,
);
