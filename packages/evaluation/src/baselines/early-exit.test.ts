import { Random } from '@d2dmoe/core';
import type { Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { denseCost } from '../dense-cost.js';
import { evaluateDense } from '../evaluate.js';
import type { EvaluationBatch } from '../run-batches.js';
import { sentenceLengths, tinyBatches } from '../../testing/batches.js';
import { failOnLeaks } from '../../testing/leaks.js';
import { convertedTinyModel } from '../../testing/models.js';
import { dot } from '../../testing/reference-ffn.js';
import { earlyExitBaseline } from './early-exit.js';
import {
  exitFeatures,
  exitGradients,
  type ExitHead,
  exitHeadCost,
  runHeads,
  trainEarlyExits,
} from './exit-heads.js';

beforeAll(() => tf.setBackend('cpu'));

/** A head's weights in float64. */
type Weights = {
  hidden: number[][];
  hiddenBias: number[];
  output: number[][];
  outputBias: number[];
  exponents: number[];
  factors: number[];
};

const random = new Random(12);
const draw = (count: number) => Array.from({ length: count }, () => random.normal());
const drawMatrix = (rows: number, columns: number) =>
  Array.from({ length: rows }, () => draw(columns));

function logSoftmax(values: readonly number[]): number[] {
  const total = Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));
  return values.map((value) => value - total);
}

/** One head on one sample: logits, and the logarithms of its own and its ensemble's probabilities. */
function referenceHead(
  w: Weights,
  x: readonly number[],
  previous: readonly number[],
  earlier: readonly (readonly number[])[],
) {
  const hidden = w.hidden.map((row, i) => Math.max(0, dot(row, x) + (w.hiddenBias[i] as number)));
  const joined = [...hidden, ...previous];
  const logits = w.output.map((row, i) => dot(row, joined) + (w.outputBias[i] as number));
  const own = logSoftmax(logits);
  const all = [...earlier, own];
  const ensemble = logSoftmax(
    w.factors.map(
      (factor, c) =>
        factor +
        all.reduce((sum, head, j) => sum + (w.exponents[j] as number) * (head[c] as number), 0),
    ),
  );
  return { logits, own, ensemble };
}

function toHead(w: Weights): ExitHead {
  return tf.tidy(() => ({
    hidden: tf.variable(tf.tensor2d(w.hidden)),
    hiddenBias: tf.variable(tf.tensor1d(w.hiddenBias)),
    output: tf.variable(tf.tensor2d(w.output)),
    outputBias: tf.variable(tf.tensor1d(w.outputBias)),
    exponents: tf.variable(tf.tensor2d([w.exponents])),
    factors: tf.variable(tf.tensor2d([w.factors])),
  }));
}

describe('two heads of width 5 over 3 classes', () => {
  failOnLeaks();
  const weights = (heads: number): Weights => ({
    hidden: drawMatrix(5, 4),
    hiddenBias: draw(5),
    output: drawMatrix(3, heads > 1 ? 8 : 5),
    outputBias: draw(3),
    exponents: draw(heads),
    factors: draw(3),
  });
  const all = [weights(1), weights(2)] as const;
  const features = [drawMatrix(6, 4), drawMatrix(6, 4)];
  const labels = [0, 2, 1, 1, 0, 2];

  /** Of each sample: both heads' values. */
  const reference = (heads: readonly [Weights, Weights]) =>
    labels.map((_, t) => {
      const first = referenceHead(heads[0], features[0]?.[t] as number[], [], []);
      const second = referenceHead(heads[1], features[1]?.[t] as number[], first.logits, [
        first.own,
      ]);
      return [first, second] as const;
    });

  test('give what a loop in float64 gives', () => {
    const heads = all.map(toHead);
    const expected = reference(all);
    tf.tidy(() => {
      const values = runHeads(
        features.map((x) => tf.tensor2d(x)),
        heads,
      );
      for (const [i, { own, ensemble }] of values.entries()) {
        for (const [t, sample] of expected.entries()) {
          for (const c of [0, 1, 2]) {
            expect(own.arraySync()[t]?.[c]).toBeCloseTo(sample[i]?.own[c] as number, 4);
            expect(ensemble.arraySync()[t]?.[c]).toBeCloseTo(sample[i]?.ensemble[c] as number, 4);
          }
        }
      }
    });
    tf.dispose(heads);
  });

  test('have the gradients of finite differences, each head’s own loss by its own weights', () => {
    const heads = all.map(toHead);
    const gradients = tf.tidy(() => {
      const x = features.map((rows) => tf.tensor2d(rows));
      const given = exitGradients(x, tf.tensor1d(labels, 'int32'), heads).gradients;
      return Object.fromEntries(
        Object.entries(given).map(([name, tensor]) => [name, [...tensor.dataSync()]]),
      );
    });
    const loss = (heads: readonly [Weights, Weights], head: number, of: 'own' | 'ensemble') =>
      -reference(heads).reduce(
        (sum, sample, t) => sum + (sample[head]?.[of][labels[t] as number] as number),
        0,
      ) / labels.length;
    let compared = 0;
    for (const head of [0, 1]) {
      for (const key of Object.keys(all[0]) as (keyof Weights)[]) {
        const of = key === 'exponents' || key === 'factors' ? 'ensemble' : 'own';
        const flat = all[head]?.[key].flat() as number[];
        for (const i of flat.keys()) {
          const at = (delta: number) => {
            const changed = structuredClone(all) as unknown as [Weights, Weights];
            const place = changed[head]?.[key] as number[] | number[][];
            const columns = Array.isArray(place[0]) ? place[0].length : 0;
            const row = columns ? (place as number[][])[Math.floor(i / columns)] : place;
            const column = columns ? i % columns : i;
            (row as number[])[column] = (flat[i] as number) + delta;
            return loss(changed, head, of);
          };
          const expected = (at(1e-5) - at(-1e-5)) / 2e-5;
          expect(gradients[`${head}.${key}`]?.[i]).toBeCloseTo(expected, 4);
          compared++;
        }
      }
    }
    expect(compared).toBe(2 * (20 + 5 + 3 + 3) + 15 + 24 + 1 + 2);
    tf.dispose(heads);
  });
});

describe.each(['tiny-bert', 'tiny-vit'] as const)('%s', (name) => {
  let model: Model;
  beforeEach(async () => {
    model = await convertedTinyModel(name);
  });
  afterEach(() => model.dispose());
  failOnLeaks();

  const lengths = name === 'tiny-vit' ? [17, 17, 17, 17] : sentenceLengths;
  const batches = () => tinyBatches[name](9);
  const classes = name === 'tiny-vit' ? 5 : 4;
  const head = 32 * 32 + classes * 32;
  const dense = lengths.map((length) => denseCost(modelShape(), length));
  const denseTotal = dense.reduce((sum, { total }) => sum + total, 0);

  function modelShape(): Model['shape'] {
    return {
      dModel: 32,
      layers: 2,
      heads: 4,
      kvHeads: 4,
      headDim: 8,
      hidden: 64,
      gated: false,
      outputs: classes,
      outputPositions: 'first',
      pooler: name === 'tiny-bert',
      patchInputs: name === 'tiny-vit' ? 48 : 0,
      maxPositions: 17,
    };
  }

  const training = (seed = 5) => ({
    model,
    train: (step: number): EvaluationBatch => {
      const [first, ...rest] = tinyBatches[name](100 + (step % 3));
      for (const { batch } of rest) tf.dispose({ ...batch });
      return first as EvaluationBatch;
    },
    steps: 15,
    learningRate: 1e-2,
    random: new Random(seed),
  });

  test('a confidence of 0 leaves at the first head, one above 1 never', async () => {
    const { points } = await earlyExitBaseline({ ...training(), batches, values: [0, 1.01] });
    const [first, never] = points;
    const firstCost = dense.reduce(
      (sum, parts) =>
        sum +
        parts.embedding +
        (parts.projections + parts.attention + parts.feedForward) / 2 +
        head,
      0,
    );
    expect(first?.cost).toBeCloseTo(firstCost / denseTotal, 12);
    expect(first?.executed).toEqual({ 'layers.0.ffn': 1, 'layers.1.ffn': 0 });
    const { score } = await evaluateDense(model, batches());
    expect(never?.score).toEqual(score);
    expect(never?.cost).toBeCloseTo((denseTotal + 4 * head) / denseTotal, 12);
    expect(never?.executed).toEqual({ 'layers.0.ffn': 1, 'layers.1.ffn': 1 });
    const ffns = dense.reduce((sum, { feedForward }) => sum + feedForward, 0);
    expect(never?.convertedCost).toBeCloseTo(1 + (4 * head) / ffns, 12);
    expect(first?.convertedCost).toBeCloseTo(1 / 2 + (4 * head) / ffns, 12);
    expect(first?.parametersRead).toBeLessThan(never?.parametersRead as number);
    expect(never?.parametersRead).toBeGreaterThan(1);
  });

  test('between, each sample leaves where a loop over samples lets it leave', async () => {
    const heads = await trainEarlyExits(training());
    expect(heads.map(exitHeadCost)).toEqual([head]);
    const samples: { confidence: number; right: boolean; rightAtEnd: boolean }[] = [];
    for (const { batch, labels } of batches()) {
      tf.tidy(() => {
        const { features, logits } = exitFeatures(model, batch);
        const [values] = runHeads(features, heads);
        const ensemble = values?.ensemble.arraySync() ?? [];
        const own = logits.arraySync();
        for (const [i, row] of ensemble.entries()) {
          const answer = (scores: number[]) => scores.indexOf(Math.max(...scores));
          samples.push({
            confidence: Math.exp(Math.max(...row)),
            right: answer(row) === labels[i],
            rightAtEnd: answer(own[i] as number[]) === labels[i],
          });
        }
      });
      tf.dispose({ ...batch });
    }
    tf.dispose(heads);
    const sorted = samples.map(({ confidence }) => confidence).toSorted((a, b) => a - b);
    const value = ((sorted[1] as number) + (sorted[2] as number)) / 2;
    const { points } = await earlyExitBaseline({ ...training(), batches, values: [value] });
    let cost = 0;
    let right = 0;
    let stayed = 0;
    for (const [i, sample] of samples.entries()) {
      const parts = dense[i] as (typeof dense)[number];
      const leaves = sample.confidence >= value;
      const layers = parts.projections + parts.attention + parts.feedForward;
      cost += parts.embedding + head + (leaves ? layers / 2 : layers + parts.head);
      right += Number(leaves ? sample.right : sample.rightAtEnd);
      if (!leaves) stayed += lengths[i] as number;
    }
    expect(samples.filter(({ confidence }) => confidence >= value)).toHaveLength(2);
    expect(points[0]?.cost).toBeCloseTo(cost / denseTotal, 12);
    expect(points[0]?.score.value).toBe(right / 4);
    const tokens = lengths.reduce((sum, length) => sum + length, 0);
    expect(points[0]?.executed['layers.1.ffn']).toBeCloseTo(stayed / tokens, 12);
  });

  test('heads learn, the model stays as it is, and the same seed learns the same', async () => {
    const before = [...model.params.values()].map((variable) => variable.dataSync().slice());
    const run = async (seed: number, losses: number[] = []) => {
      const heads = await trainEarlyExits({
        ...training(seed),
        steps: 45,
        onProgress: ({ metrics }) => metrics && losses.push(metrics['loss'] as number),
      });
      const weights = heads.map(({ output }) => output.dataSync().slice());
      tf.dispose(heads);
      return weights;
    };
    const losses: number[] = [];
    const once = await run(5, losses);
    expect(await run(5)).toEqual(once);
    expect(await run(6)).not.toEqual(once);
    expect(losses).toHaveLength(45);
    expect(losses.at(-1)).toBeLessThan(0.6 * (losses[0] as number));
    expect([...model.params.values()].map((variable) => variable.dataSync())).toEqual(before);
  });

  test('labels that are no class are refused, and leave nothing behind', async () => {
    const wrong = (step: number) => {
      const { batch, labels } = training().train(step);
      return { batch, labels: labels.fill(17) };
    };
    const running = trainEarlyExits({ ...training(), train: wrong });
    await expect(running).rejects.toThrowError(/outside the model's/);
  });
});

test('a language model has no early exits', async () => {
  const model = await convertedTinyModel('tiny-gpt2');
  const train = () => {
    throw new Error('not reached');
  };
  const running = trainEarlyExits({ model, train, steps: 1, random: new Random(1) });
  await expect(running).rejects.toThrowError(/need a classifier/);
  model.dispose();
});
