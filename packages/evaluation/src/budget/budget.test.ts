import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Thresholds } from '@d2dmoe/models';
import type { Score } from '../score.js';
import { frontier } from './frontier.js';
import { layerPath } from './layer-path.js';
import { lookUpBudget } from './look-up-budget.js';
import { meetBudget } from './meet-budget.js';
import { type MeasuredThresholds, resolveBudget } from './resolve-budget.js';
import { between, thresholdRule } from './thresholds.js';

const grid = [0, 0.1, 0.2, 0.4, 0.8];

/** A model of two layers whose effects add up: `cheap` loses nothing, `dear` much, for the same cost. */
function toy(thresholds: Readonly<Record<string, number>>) {
  const cheap = thresholds['cheap'] ?? 0;
  const dear = thresholds['dear'] ?? 0;
  return {
    loss: 1 + 0.01 * cheap + dear ** 2,
    cost: 1 - 0.3 * Math.sqrt(cheap) - 0.3 * Math.sqrt(dear),
  };
}

test('the path raises the layer that loses least first, and ends with every layer at its highest', async () => {
  const path = await layerPath(['dear', 'cheap'], grid, (t) => Promise.resolve(toy(t)), 8);
  expect(path[0]).toEqual({ dear: 0, cheap: 0 });
  expect(path.at(-1)).toEqual({ dear: 0.8, cheap: 0.8 });
  const finished = path.find(({ cheap }) => cheap === 0.8);
  expect(finished?.['dear']).toBeLessThan(0.8);
  const costs = path.map((point) => toy(point).cost);
  expect(costs).toEqual(costs.toSorted((a, b) => b - a));
});

test('at equal cost a path per layer loses no more than one threshold for all, where effects add up', async () => {
  const path = await layerPath(['dear', 'cheap'], grid, (t) => Promise.resolve(toy(t)), 100);
  for (const tau of grid) {
    const global = toy({ cheap: tau, dear: tau });
    const rival = path.map((t) => toy(t)).find(({ cost }) => cost <= global.cost + 1e-12);
    expect(rival?.loss).toBeLessThanOrEqual(global.loss + 1e-12);
  }
});

test('a threshold that saves nothing is never taken', async () => {
  const path = await layerPath(['a'], grid, () => Promise.resolve({ loss: 1, cost: 1 }), 4);
  expect(path).toEqual([{ a: 0 }]);
});

const accuracy = (value: number): Score => ({ name: 'accuracy', value, higherIsBetter: true });

/** Cost falls and score falls with tau; smooth, so that any target between can be met. */
function measureAt(thresholds: Thresholds): Promise<MeasuredThresholds> {
  const tau = thresholds as number;
  return Promise.resolve({
    thresholds,
    score: accuracy(0.9 - 0.2 * tau ** 2),
    loss: tau,
    cost: 1.02 - 0.7 * Math.sqrt(tau),
  });
}

test('a cost between the cheapest and the dearest point is met to 1 %', async () => {
  const path = await Promise.all(grid.map(measureAt));
  await fc.assert(
    fc.asyncProperty(fc.double({ min: 0.4, max: 1.02, noNaN: true }), async (cost) => {
      const found = await resolveBudget(path, { cost }, accuracy(0.9), measureAt);
      expect(Math.abs(found.cost - cost) / cost).toBeLessThan(0.01);
      expect(await measureAt(found.thresholds)).toEqual(found);
    }),
  );
});

test('a share of the score is kept, and about as cheaply as the smooth model allows', async () => {
  const path = await Promise.all(grid.map(measureAt));
  await fc.assert(
    fc.asyncProperty(fc.double({ min: 0.87, max: 0.999, noNaN: true }), async (keep) => {
      const found = await resolveBudget(path, { keep }, accuracy(0.9), measureAt);
      expect(found.score.value).toBeGreaterThanOrEqual(keep * 0.9);
      const tau = Math.min(0.8, Math.sqrt((0.9 - keep * 0.9) / 0.2));
      const { cost } = await measureAt(tau);
      expect(found.cost).toBeLessThan(cost + 0.12);
    }),
  );
});

test('for a loss, keep allows it to grow by what is not kept', async () => {
  const loss = (value: number): Score => ({ name: 'loss', value, higherIsBetter: false });
  const measure = (thresholds: Thresholds) =>
    Promise.resolve({
      thresholds,
      score: loss(3 + (thresholds as number)),
      loss: 3 + (thresholds as number),
      cost: 1 - (thresholds as number),
    });
  const path = await Promise.all(grid.map(measure));
  const found = await resolveBudget(path, { keep: 0.95 }, loss(3), measure);
  expect(found.score.value).toBeLessThanOrEqual(1.05 * 3);
  expect(found.score.value).toBeGreaterThan(3.1);
});

test('what cannot be reached says what can', async () => {
  const path = await Promise.all(grid.map(measureAt));
  await expect(resolveBudget(path, { cost: 0.1 }, accuracy(0.9), measureAt)).rejects.toThrow(
    /0\.394/,
  );
  await expect(resolveBudget(path, { keep: 1 }, accuracy(0.95), measureAt)).rejects.toThrow(
    /0\.9000/,
  );
});

test('thresholds between two settings, and as a rule', () => {
  expect(between(0, 0.5, 0.5)).toBe(0.25);
  expect(between({ a: 0, b: 0.2 }, { a: 0.4, b: 0.2 }, 0.25)).toEqual({ a: 0.1, b: 0.2 });
  expect(between(0.1, { a: 0.3 }, 0.5)).toEqual({ a: 0.2 });
  expect(thresholdRule(0.3)).toEqual({ rule: 'threshold', value: 0.3 });
  const rule = thresholdRule({ a: 0.4 });
  expect(typeof rule === 'function' && rule({ name: 'a' } as never)).toEqual({
    rule: 'threshold',
    value: 0.4,
  });
  expect(typeof rule === 'function' && rule({ name: 'b' } as never)).toEqual({
    rule: 'threshold',
    value: 0,
  });
});

test('the frontier is what no other point beats in cost and loss', () => {
  const point = fc.record({ cost: fc.integer({ max: 20 }), loss: fc.integer({ max: 20 }) });
  fc.assert(
    fc.property(fc.array(point), (points) => {
      const kept = frontier(points);
      for (const { cost, loss } of points) {
        expect(kept.some((rival) => rival.cost <= cost && rival.loss <= loss)).toBe(true);
      }
      for (const [i, { cost, loss }] of kept.slice(1).entries()) {
        const dearer = kept[i] as { cost: number; loss: number };
        expect(dearer.cost > cost && dearer.loss < loss).toBe(true);
      }
    }),
  );
});

/** A model of two layers as {@link toy}, scored by its loss. */
function measureToy(thresholds: Thresholds): Promise<MeasuredThresholds> {
  const byLayer =
    typeof thresholds === 'number' ? { cheap: thresholds, dear: thresholds } : thresholds;
  const { loss, cost } = toy(byLayer);
  const score: Score = { name: 'loss', value: loss, higherIsBetter: false };
  return Promise.resolve({ thresholds, score, loss, cost });
}

test('a budget is met by thresholds per layer where they are better, else by one for all', async () => {
  const dense: Score = { name: 'loss', value: 1, higherIsBetter: false };
  const global = await Promise.all(grid.map(measureToy));
  const settings = await layerPath(['dear', 'cheap'], grid, measureToy, 8);
  const perLayer = frontier([...global, ...(await Promise.all(settings.map(measureToy)))]);
  await fc.assert(
    fc.asyncProperty(fc.double({ min: 0.5, max: 0.99, noNaN: true }), async (cost) => {
      const paths = { global, perLayer, measure: measureToy };
      const met = await meetBudget(paths, { cost }, dense);
      expect(met.chosen.loss).toBeLessThanOrEqual(met.global?.loss as number);
      expect(Math.abs(met.chosen.cost - cost) / cost).toBeLessThan(0.01);
    }),
  );
  const kept = await meetBudget({ global, perLayer, measure: measureToy }, { keep: 0.95 }, dense);
  expect(kept.chosen.cost).toBeLessThan(kept.global?.cost as number);
  expect(typeof kept.chosen.thresholds).toBe('object');
  const alone = await meetBudget({ global, measure: measureToy }, { keep: 0.95 }, dense);
  expect(alone.chosen).toEqual(alone.global);
  // One threshold for all cannot be as cheap as the best per layer where the path goes further.
  const short = { global: global.slice(0, 2), perLayer, measure: measureToy };
  const beyond = await meetBudget(short, { cost: 0.6 }, dense);
  expect(beyond.global).toBeUndefined();
  expect(beyond.chosen.cost).toBeCloseTo(0.6, 2);
  const unreachable = meetBudget({ global, perLayer, measure: measureToy }, { cost: 0.1 }, dense);
  await expect(unreachable).rejects.toMatchObject({ code: 'BUDGET_UNREACHABLE' });
});

test('a budget is looked up between the points of a path without running anything', async () => {
  const path = await Promise.all(grid.map(measureAt));
  const dense = accuracy(0.9);
  const point = path[2] as MeasuredThresholds;
  expect(lookUpBudget(path, { cost: point.cost }, dense)).toBeCloseTo(point.thresholds as number);
  expect(lookUpBudget(path, { keep: point.score.value / 0.9 }, dense)).toBeCloseTo(0.2);
  fc.assert(
    fc.property(fc.double({ min: 0.4, max: 1, noNaN: true }), (cost) => {
      const tau = lookUpBudget(path, { cost }, dense) as number;
      const right = path.findIndex((candidate) => candidate.cost < cost);
      expect(tau).toBeGreaterThanOrEqual(grid[right - 1] as number);
      expect(tau).toBeLessThanOrEqual(grid[right] as number);
    }),
  );
  expect(lookUpBudget(path, { cost: 2 }, dense)).toBe(0);
  expect(lookUpBudget(path, { keep: 0.5 }, dense)).toBe(0.8);
  expect(() => lookUpBudget(path, { cost: 0.1 }, dense)).toThrow(/0\.394/);
  expect(() => lookUpBudget(path, { keep: 1 }, accuracy(0.95))).toThrow(/0\.9000.* keeps 0\.947/);
});
