import { type ProgressEvent, Random } from '@d2dmoe/core';
import type { Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cheapestWithin } from '../choose.js';
import { evaluateDense } from '../evaluate.js';
import type { EvaluationBatch } from '../run-batches.js';
import { tinyBatches } from '../../testing/batches.js';
import { failOnLeaks } from '../../testing/leaks.js';
import { convertedTinyModel } from '../../testing/models.js';
import { baselineNames, baselines, type BaselinesOptions } from './index.js';

let dense: Model;
let converted: Model;
let language: Model;
beforeAll(async () => {
  await tf.setBackend('cpu');
  converted = await convertedTinyModel('tiny-bert');
  dense = await convertedTinyModel('tiny-bert');
  language = await convertedTinyModel('tiny-gemma-gqa');
});
afterAll(() => {
  for (const model of [dense, converted, language]) model.dispose();
});
failOnLeaks();

const options = (name: 'tiny-bert' | 'tiny-gemma-gqa' = 'tiny-bert'): BaselinesOptions => ({
  dense: name === 'tiny-bert' ? dense : language,
  converted: name === 'tiny-bert' ? converted : language,
  batches: () => tinyBatches[name](9),
  train: (step) => {
    const [first, ...rest] = tinyBatches[name](100 + step);
    for (const { batch } of rest) tf.dispose({ ...batch });
    return first as EvaluationBatch;
  },
  training: { steps: 4 },
  random: new Random(8),
});

test('all baselines of a classifier, each described and on one scale', async () => {
  const events: ProgressEvent[] = [];
  const curves = await baselines({ ...options(), onProgress: (event) => events.push(event) });
  expect(curves.map(({ name }) => name)).toEqual(baselineNames);
  expect(new Set(curves.map(({ label }) => label)).size).toBe(baselineNames.length);
  const { score } = await evaluateDense(dense, options().batches());
  for (const { description, knob, points, settings } of curves) {
    expect(description).toMatch(/^\S.*\.$/);
    expect(knob).not.toBe('');
    expect(points.length).toBeGreaterThan(5);
    expect(new Set(points.map(({ value }) => value)).size).toBe(points.length);
    for (const point of points) {
      expect(point.score.name).toBe('accuracy');
      expect(point.cost).toBeGreaterThan(0);
      expect(point.cost).toBeLessThan(1.2);
      expect(Object.keys(point.executed)).toEqual(['layers.0.ffn', 'layers.1.ffn']);
    }
    expect(cheapestWithin(points, { keep: 0, dense: score })).toBeDefined();
    expect(JSON.parse(JSON.stringify({ points, settings }))).toEqual({ points, settings });
  }
  const names = [...baselineNames, 'moefication routers', 'early exits'];
  expect(new Set(events.map(({ name }) => name))).toEqual(new Set(names));
  for (const name of names) {
    const own = events.filter((event) => event.name === name);
    expect(own[0]?.status).toBe('initiate');
    expect(own.at(-1)).toEqual({ status: 'done', name, progress: 100 });
  }
});

test('a baseline does not depend on which others run, nor on when', async () => {
  const which = ['earlyExit', 'moefication'] as const;
  const two = await baselines({ ...options(), which });
  expect(two.map(({ name }) => name)).toEqual(which);
  const [one] = await baselines({ ...options(), which: ['moefication'] });
  expect(one).toEqual(two[1]);
});

test('a language model has all but early exits', async () => {
  const quick = { ...options('tiny-gemma-gqa') };
  const curves = await baselines(quick);
  expect(curves.map(({ name }) => name)).toEqual(baselineNames.slice(0, -1));
  expect(curves[0]?.points[0]?.score.name).toBe('loss');
  await expect(baselines({ ...quick, which: ['earlyExit'] })).rejects.toThrowError(/classifier/);
});

test('an abort ends it, whichever baseline is at work', async () => {
  for (const name of baselineNames) {
    const controller = new AbortController();
    const reason = new Error('stopped');
    const running = baselines({
      ...options(),
      which: [name],
      signal: controller.signal,
      onProgress: ({ step }) => step === 2 && controller.abort(reason),
    });
    await expect(running).rejects.toBe(reason);
  }
});
