import { Random } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { lowerBound } from '../testing/lower-bound.js';
import { assignBalanced } from './assign-balanced.js';

type Costs = Float32Array | Float64Array;

function totalCost(costs: Costs, k: number, columnOf: ArrayLike<number>): number {
  let total = 0;
  for (let i = 0; i < columnOf.length; i++) {
    total += costs[i * k + (columnOf[i] as number)] as number;
  }
  return total;
}

function expectBalanced(columnOf: Uint32Array, k: number, capacity: number): void {
  const load = Array.from({ length: k }, () => 0);
  for (const column of columnOf) load[column] = (load[column] as number) + 1;
  expect(load).toEqual(Array.from({ length: k }, () => capacity));
}

/** The least total cost, by trying every balanced assignment. */
function leastByTrial(costs: Costs, h: number, k: number, capacity: number): number {
  const load = Array.from({ length: k }, () => 0);
  const from = (row: number): number => {
    if (row === h) return 0;
    let least = Infinity;
    for (let j = 0; j < k; j++) {
      const used = load[j] as number;
      if (used === capacity) continue;
      load[j] = used + 1;
      least = Math.min(least, (costs[row * k + j] as number) + from(row + 1));
      load[j] = used;
    }
    return least;
  };
  return from(0);
}

/** The least total cost by the Hungarian method in O(h³), each column standing for `capacity` columns of one row. */
function leastByHungarian(costs: Costs, h: number, k: number): number {
  const capacity = h / k;
  const rowPotential = new Float64Array(h + 1);
  const columnPotential = new Float64Array(h + 1);
  const rowIn = new Int32Array(h + 1); // rows and columns count from 1, 0 is none
  const before = new Int32Array(h + 1);
  for (let row = 1; row <= h; row++) {
    rowIn[0] = row;
    let column = 0;
    const slack = new Float64Array(h + 1).fill(Infinity);
    const seen = new Uint8Array(h + 1);
    while (rowIn[column] !== 0) {
      seen[column] = 1;
      const current = rowIn[column] as number;
      let delta = Infinity;
      let next = 0;
      for (let j = 1; j <= h; j++) {
        if (seen[j] === 1) continue;
        const cost = costs[(current - 1) * k + Math.floor((j - 1) / capacity)] as number;
        const reduced = cost - (rowPotential[current] as number) - (columnPotential[j] as number);
        if (reduced < (slack[j] as number)) {
          slack[j] = reduced;
          before[j] = column;
        }
        if ((slack[j] as number) < delta) {
          delta = slack[j] as number;
          next = j;
        }
      }
      for (let j = 0; j <= h; j++) {
        if (seen[j] === 1) {
          const matched = rowIn[j] as number;
          rowPotential[matched] = (rowPotential[matched] as number) + delta;
          columnPotential[j] = (columnPotential[j] as number) - delta;
        } else {
          slack[j] = (slack[j] as number) - delta;
        }
      }
      column = next;
    }
    while (column !== 0) {
      const previous = before[column] as number;
      rowIn[column] = rowIn[previous] as number;
      column = previous;
    }
  }
  let total = 0;
  for (let j = 1; j <= h; j++) {
    total += costs[((rowIn[j] as number) - 1) * k + Math.floor((j - 1) / capacity)] as number;
  }
  return total;
}

function uniformCosts(seed: number, length: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length }, () => random.uniform());
}

/** Squared distances between normally distributed points and centroids of dimension 3. */
function distanceCosts(seed: number, h: number, k: number): Float32Array {
  const random = new Random(seed);
  const draw = (count: number) =>
    Array.from({ length: count }, () => [random.normal(), random.normal(), random.normal()]);
  const centroids = draw(k);
  return Float32Array.from(
    draw(h).flatMap((point) =>
      centroids.map((centroid) =>
        point.reduce((sum, x, t) => sum + (x - (centroid[t] as number)) ** 2, 0),
      ),
    ),
  );
}

test('equals the best of all balanced assignments, ties and negative costs included', () => {
  const shapes = fc
    .record({ k: fc.integer({ min: 1, max: 4 }), capacity: fc.integer({ min: 1, max: 4 }) })
    .filter(({ k, capacity }) => k * capacity <= 8);
  const instances = shapes.chain(({ k, capacity }) =>
    fc.record({
      k: fc.constant(k),
      capacity: fc.constant(capacity),
      costs: fc.array(fc.integer({ min: -5, max: 5 }), {
        minLength: k * capacity * k,
        maxLength: k * capacity * k,
      }),
      prices: fc.array(fc.integer({ min: -5, max: 5 }), { minLength: k, maxLength: k }),
    }),
  );
  fc.assert(
    fc.property(instances, ({ k, capacity, costs, prices }) => {
      const h = k * capacity;
      const table = Float64Array.from(costs);
      const columnOf = assignBalanced(table, h, k, capacity, Float64Array.from(prices));
      expectBalanced(columnOf, k, capacity);
      expect(totalCost(table, k, columnOf)).toBe(leastByTrial(table, h, k, capacity));
    }),
    { numRuns: 300 },
  );
});

test.each([
  { h: 256, k: 8 },
  { h: 256, k: 64 },
  { h: 256, k: 256 },
  { h: 1024, k: 128 },
])('$h rows in $k columns cost what the Hungarian method finds', ({ h, k }) => {
  for (const costs of [uniformCosts(h + k, h * k), distanceCosts(h + k, h, k)]) {
    const columnOf = assignBalanced(costs, h, k, h / k);
    expectBalanced(columnOf, k, h / k);
    const least = leastByHungarian(costs, h, k);
    expect(Math.abs(totalCost(costs, k, columnOf) - least)).toBeLessThan(1e-6 * least);
  }
});

test('the prices prove an assignment of full size optimal', () => {
  const [h, k] = [3072, 768];
  const costs = uniformCosts(1, h * k);
  const prices = new Float64Array(k);
  const columnOf = assignBalanced(costs, h, k, h / k, prices);
  expectBalanced(columnOf, k, h / k);
  const cost = totalCost(costs, k, columnOf);
  expect(Math.abs(cost - lowerBound(costs, h, k, prices))).toBeLessThan(1e-9 * cost);
});

test('any initial prices lead to the same cost', () => {
  const [h, k] = [120, 10];
  const costs = uniformCosts(5, h * k);
  const cost = totalCost(costs, k, assignBalanced(costs, h, k, h / k));
  fc.assert(
    fc.property(
      fc.float64Array({ minLength: k, maxLength: k, min: -10, max: 10, noNaN: true }),
      (prices) => {
        const columnOf = assignBalanced(costs, h, k, h / k, prices);
        expect(totalCost(costs, k, columnOf)).toBeCloseTo(cost, 9);
        expect(lowerBound(costs, h, k, prices)).toBeCloseTo(cost, 9);
      },
    ),
  );
});

test('rejects sizes that cannot balance, wrong lengths and numbers that are none', () => {
  expect(() => assignBalanced(new Float32Array(14), 7, 2, 3)).toThrow(
    expect.objectContaining({
      code: 'ASSIGNMENT_SIZE_INVALID',
      message: 'A balanced assignment to 2 columns of 3 needs 6 rows, but there are 7.',
    }),
  );
  expect(() => assignBalanced(new Float32Array(11), 6, 2, 3)).toThrow(
    expect.objectContaining({ code: 'LENGTH_MISMATCH' }),
  );
  expect(() => assignBalanced(new Float32Array(12), 6, 2, 3, new Float64Array(3))).toThrow(
    expect.objectContaining({ code: 'LENGTH_MISMATCH' }),
  );
  expect(() => assignBalanced(new Float32Array(12).fill(NaN, 5, 6), 6, 2, 3)).toThrow(
    expect.objectContaining({
      code: 'VALUE_NOT_FINITE',
      message: 'costs must hold finite numbers, but row 2, column 1 is NaN.',
    }),
  );
  expect(() => assignBalanced(new Float32Array(12), 6, 2, 3, Float64Array.of(0, Infinity))).toThrow(
    expect.objectContaining({ code: 'VALUE_NOT_FINITE' }),
  );
});
