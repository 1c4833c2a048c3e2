import { type ProgressEvent, Random } from '@d2dmoe/core';
import type { Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-wasm';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { CurvePoint } from './evaluate.js';
import type { EvaluationBatch } from './run-batches.js';
import { sweep } from './sweep.js';
import { failOnLeaks } from '../testing/leaks.js';
import { convertedTinyModel } from '../testing/models.js';

let model: Model;
beforeAll(async () => {
  await tf.setBackend('wasm');
  model = await convertedTinyModel('tiny-bert');
});
afterAll(() => model.dispose());
failOnLeaks();

/** Two batches of 8 sentences of 9 tokens, half of them padded. */
async function* batches(): AsyncGenerator<EvaluationBatch> {
  const random = new Random(30);
  for (let i = 0; i < 2; i++) {
    const ids = Array.from({ length: 72 }, () => random.integer(60));
    const mask = ids.map((_, position) => Number(position < 36 || position % 9 < 3));
    yield {
      batch: {
        inputIds: tf.tensor2d(ids, [8, 9], 'int32'),
        attentionMask: tf.tensor2d(mask, [8, 9], 'int32'),
      },
      labels: Int32Array.from({ length: 8 }, () => random.integer(4)),
    };
  }
}

const costs = (points: readonly CurvePoint[]) => points.map(({ cost }) => cost);

test('cost, converted cost and executed experts fall as τ rises', async () => {
  const taus = [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1];
  const points = await sweep({ model, batches, taus });
  expect(points.map(({ tau }) => tau)).toEqual(taus);
  for (const [i, point] of points.entries()) {
    const cheaper = points[i + 1];
    if (!cheaper) continue;
    expect(cheaper.cost).toBeLessThan(point.cost);
    expect(cheaper.convertedCost).toBeLessThan(point.convertedCost);
    expect(cheaper.parametersRead).toBeLessThan(point.parametersRead);
    for (const [site, share] of Object.entries(point.executed)) {
      expect(cheaper.executed[site]).toBeLessThan(share);
    }
  }
  expect(points.at(-1)?.meanExpertsPerToken).toBeCloseTo(1, 1);
});

test('top-k and cumulative share are swept in the same way', async () => {
  const topK = await sweep({
    model,
    batches,
    rules: [1, 4, 16].map((value) => ({ rule: 'topK', value })),
  });
  expect(topK.map(({ executed }) => executed['layers.1.ffn'])).toEqual([1 / 16, 4 / 16, 1]);
  expect(topK.map(({ tau }) => tau)).toEqual([undefined, undefined, undefined]);
  const share = await sweep({
    model,
    batches,
    rules: [0.2, 0.6, 0.9].map((value) => ({ rule: 'cumulativeShare', value })),
  });
  const rising = costs(share).toSorted((a, b) => a - b);
  expect(costs(share)).toEqual(rising);
  expect(new Set(rising).size).toBe(3);
});

test('the same sweep twice gives the same points', async () => {
  const options = { model, batches, taus: [0.2, 0.6] };
  expect(await sweep(options)).toEqual(await sweep(options));
});

test('progress counts batches, and carries each point’s figures', async () => {
  const events: ProgressEvent[] = [];
  const points = await sweep({
    model,
    batches,
    taus: [0.2, 0.6],
    onProgress: (event) => events.push(event),
  });
  expect(events[0]).toEqual({ status: 'initiate', name: 'sweep' });
  expect(events.at(-1)).toEqual({ status: 'done', name: 'sweep', progress: 100 });
  const done = events.slice(1, -1);
  expect(done.map(({ step }) => step)).toEqual([1, 2, 2, 3, 4, 4]);
  expect(done.map(({ progress }) => progress)).toEqual([undefined, undefined, 50, 75, 100, 100]);
  expect(done.flatMap(({ metrics }) => (metrics ? [metrics] : []))).toEqual(
    points.map(({ tau, score, cost }) => ({ tau, accuracy: score.value, cost })),
  );
});

test('an abort during the sweep rejects with its reason and closes the data', async () => {
  const controller = new AbortController();
  let closed = 0;
  async function* watched() {
    try {
      yield* batches();
    } finally {
      closed++;
    }
  }
  const reason = new Error('stopped');
  const running = sweep({
    model,
    batches: watched,
    taus: [0, 0.5, 1],
    signal: controller.signal,
    onProgress: ({ step }) => step === 3 && controller.abort(reason),
  });
  await expect(running).rejects.toBe(reason);
  expect(closed).toBe(2);
});
