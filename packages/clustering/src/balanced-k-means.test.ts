import { type ProgressEvent, Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { expectAborts } from '../testing/abort.js';
import { bestSwapGain } from '../testing/best-swap.js';
import { lowerBound } from '../testing/lower-bound.js';
import { assignBalanced } from './assign-balanced.js';
import { balancedKMeans } from './balanced-k-means.js';
import type { Split } from './split.js';

function normalRows(seed: number, length: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length }, () => random.normal());
}

/** Rows of `d` numbers at length 1, in float64. */
function unitRows(rows: Float32Array, d: number): Float64Array[] {
  return Array.from({ length: rows.length / d }, (_, i) => {
    const row = Float64Array.from(rows.subarray(i * d, (i + 1) * d));
    const norm = Math.hypot(...row);
    return norm > 0 ? row.map((x) => x / norm) : row;
  });
}

/** Squared distances of unit rows to the means of a split's experts, [h, n], and their sum within experts. */
function distances(unit: Float64Array[], d: number, { order, experts: k, expertSize: e }: Split) {
  const h = order.length;
  const means = Array.from({ length: k }, (_, j) => {
    const mean = new Float64Array(d);
    for (const i of order.subarray(j * e, (j + 1) * e)) {
      unit[i]?.forEach((x, t) => {
        mean[t] = (mean[t] as number) + x / e;
      });
    }
    return mean;
  });
  const costs = new Float64Array(h * k);
  unit.forEach((row, i) => {
    means.forEach((mean, j) => {
      let sum = 0;
      for (let t = 0; t < d; t++) sum += ((row[t] as number) - (mean[t] as number)) ** 2;
      costs[i * k + j] = sum;
    });
  });
  const expertOf = new Uint32Array(h);
  order.forEach((neuron, place) => {
    expertOf[neuron] = Math.floor(place / e);
  });
  const objective = expertOf.reduce((sum, j, i) => sum + (costs[i * k + j] as number), 0);
  return { costs, objective };
}

/** A cost that no balanced assignment falls below: weak duality with the prices of assignBalanced. */
function leastCost(costs: Float64Array, h: number, k: number): number {
  const prices = new Float64Array(k);
  assignBalanced(costs, h, k, h / k, prices);
  return lowerBound(costs, h, k, prices);
}

function expectSplit(split: Split, count: number, expertSize: number): void {
  expect(split.expertSize).toBe(expertSize);
  expect(split.experts).toBe(count / expertSize);
  expect(Array.from(split.order).sort((a, b) => a - b)).toEqual(
    Array.from({ length: count }, (_, i) => i),
  );
  for (let start = 0; start < count; start += expertSize) {
    const expert = split.order.slice(start, start + expertSize);
    expect(expert).toEqual(expert.toSorted());
  }
}

test('every shape splits into equal experts, no swap of two neurons gains, optimal at its means', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 12 }),
      fc.integer({ min: 1, max: 9 }),
      fc.nat(),
      async (experts, expertSize, dimension, seed) => {
        const count = experts * expertSize;
        const rows = normalRows(seed, count * dimension);
        if (seed % 3 === 0) rows.fill(0, 0, dimension);
        if (seed % 3 === 1) rows.copyWithin(dimension, 0, dimension * (count >> 1));
        const random = new Random(seed);
        const split = await balancedKMeans({ rows, count, dimension, expertSize, random });
        expectSplit(split, count, expertSize);
        const unit = unitRows(rows, dimension);
        const { costs, objective } = distances(unit, dimension, split);
        expect(split.objective).toBeCloseTo(objective, 4);
        expect(objective).toBeLessThanOrEqual(leastCost(costs, count, experts) * 1.0001 + 1e-4);
        const products = Float64Array.from({ length: count ** 2 }, (_, i) => {
          const [a, b] = [unit[Math.floor(i / count)], unit[i % count]] as [
            Float64Array,
            Float64Array,
          ];
          return a.reduce((sum, value, t) => sum + value * (b[t] as number), 0);
        });
        expect(bestSwapGain(products, split.order, expertSize)).toBeLessThanOrEqual(1e-5);
      },
    ),
    { numRuns: 60 },
  );
});

test('finds planted clusters whatever the lengths of their rows', async () => {
  const [experts, expertSize, dimension] = [24, 8, 32];
  const count = experts * expertSize;
  const centers = normalRows(1, experts * dimension);
  const noise = normalRows(2, count * dimension);
  const random = new Random(3);
  const planted = random.permutation(count).map((place) => place % experts);
  const rows = new Float32Array(count * dimension);
  planted.forEach((cluster, i) => {
    const length = 10 ** (4 * random.uniform() - 2);
    for (let t = 0; t < dimension; t++) {
      const center = centers[cluster * dimension + t] as number;
      rows[i * dimension + t] = length * (center + 0.2 * (noise[i * dimension + t] as number));
    }
  });
  const split = await balancedKMeans({ rows, count, dimension, expertSize, random });
  for (let start = 0; start < count; start += expertSize) {
    const expert = split.order.slice(start, start + expertSize);
    expect(new Set(Array.from(expert, (i) => planted[i])).size).toBe(1);
  }
});

test('the seed decides the split', async () => {
  const [count, dimension, expertSize] = [96, 16, 8];
  const rows = normalRows(4, count * dimension);
  const split = (seed: number) =>
    balancedKMeans({ rows, count, dimension, expertSize, random: new Random(seed) });
  const first = await split(1);
  expect(await split(1)).toEqual(first);
  expect((await split(2)).order).not.toEqual(first.order);
});

test('leaves the rows as they were', async () => {
  const rows = normalRows(4, 64 * 5);
  const before = rows.slice();
  const random = new Random(0);
  await balancedKMeans({ rows, count: 64, dimension: 5, expertSize: 8, random });
  expect(rows).toEqual(before);
});

// The bound is generous: a few seconds are usual. It is on processor time, whatever else the machine is doing.
test.each([{ expertSize: 128 }, { expertSize: 4 }])(
  'splits 3,072 neurons of 768 weights by $expertSize within a minute, within 2 % of the exact assignment',
  { timeout: 240_000 },
  async ({ expertSize }) => {
    const [count, dimension] = [3072, 768];
    const rows = normalRows(6, count * dimension);
    const random = new Random(0);
    const start = process.cpuUsage();
    const split = await balancedKMeans({ rows, count, dimension, expertSize, random });
    expect(process.cpuUsage(start).user / 1e6).toBeLessThan(60);
    expectSplit(split, count, expertSize);
    const { costs, objective } = distances(unitRows(rows, dimension), dimension, split);
    expect(Math.abs((split.objective as number) - objective)).toBeLessThan(1e-6 * objective);
    expect(objective).toBeLessThanOrEqual(1.02 * leastCost(costs, count, count / expertSize));
  },
);

test('reports its start, each iteration with its objective, and its end', async () => {
  const events: ProgressEvent[] = [];
  const split = await balancedKMeans({
    rows: normalRows(7, 200 * 6),
    count: 200,
    dimension: 6,
    expertSize: 10,
    random: new Random(0),
    onProgress: (event) => events.push(event),
  });
  const name = 'balancedKMeans';
  const metrics = { objective: split.objective };
  expect(events[0]).toEqual({ status: 'initiate', name });
  expect(events.at(-1)).toEqual({ status: 'done', name, progress: 100, metrics });
  const steps = events.filter((event) => event.step !== undefined);
  expect(steps.map((event) => event.step)).toEqual(steps.map((_, i) => i + 1));
  expect(steps.at(-1)).toMatchObject({ steps: 30, metrics });
  const shares = events.slice(1).map((event) => event.progress as number);
  expect(shares).toEqual(shares.toSorted((a, b) => a - b));
});

test('no iteration raises the objective', async () => {
  let improvedLater = 0;
  for (let seed = 0; seed < 20; seed++) {
    const objectives: number[] = [];
    await balancedKMeans({
      rows: normalRows(seed, 300 * 3),
      count: 300,
      dimension: 3,
      expertSize: 30,
      random: new Random(seed),
      onProgress: ({ step, metrics }) => {
        if (step !== undefined) objectives.push(metrics?.['objective'] as number);
      },
    });
    objectives.slice(1).forEach((objective, i) => {
      expect(objective).toBeLessThanOrEqual((objectives[i] as number) + 1e-4);
    });
    if (objectives.length > 2) improvedLater++;
  }
  expect(improvedLater).toBeGreaterThan(0);
});

test('stops at maxIterations', async () => {
  let steps = 0;
  await balancedKMeans({
    rows: normalRows(8, 300 * 2),
    count: 300,
    dimension: 2,
    expertSize: 10,
    random: new Random(0),
    maxIterations: 1,
    onProgress: (event) => {
      steps = event.step ?? steps;
    },
  });
  expect(steps).toBe(1);
});

test('an abort ends it, before and in the middle, by its reason', async () => {
  expect.hasAssertions();
  const options = {
    rows: normalRows(9, 256 * 8),
    count: 256,
    dimension: 8,
    expertSize: 4,
    random: new Random(0),
  };
  await expectAborts((abort) => balancedKMeans({ ...options, ...abort }));
});

test('rejects an expert size that does not divide the width, naming both and the nearest that do', async () => {
  const split = (expertSize: number) =>
    balancedKMeans({
      rows: new Float32Array(3072),
      count: 3072,
      dimension: 1,
      expertSize,
      random: new Random(0),
    });
  await expect(split(100)).rejects.toMatchObject({
    code: 'EXPERT_SIZE_INVALID',
    message:
      'The expert size 100 does not divide the hidden width 3072; choose one that does, such as 96 or 128.',
  });
  await expect(split(4000)).rejects.toThrow('such as 3072.');
  await expect(split(0)).rejects.toThrow('such as 1.');
  await expect(split(1.5)).rejects.toThrow('such as 1 or 2.');
  await expect(split(NaN)).rejects.toMatchObject({ code: 'EXPERT_SIZE_INVALID' });
});

test('rejects a width that is none, wrong lengths and weights that are not finite', async () => {
  const options = { dimension: 3, expertSize: 2, random: new Random(0) };
  await expect(
    balancedKMeans({ ...options, rows: new Float32Array(0), count: 0 }),
  ).rejects.toMatchObject({ code: 'HIDDEN_WIDTH_INVALID' });
  await expect(
    balancedKMeans({ ...options, rows: new Float32Array(11), count: 4 }),
  ).rejects.toMatchObject({
    code: 'LENGTH_MISMATCH',
    message: 'rows must hold 4 × 3 = 12 values, but it holds 11.',
  });
  for (const bad of [NaN, Infinity, -Infinity]) {
    const rows = new Float32Array(12);
    rows[7] = bad;
    await expect(balancedKMeans({ ...options, rows, count: 4 })).rejects.toMatchObject({
      code: 'VALUE_NOT_FINITE',
      message: `rows must hold finite numbers, but row 2, column 1 is ${bad}.`,
    });
  }
});
