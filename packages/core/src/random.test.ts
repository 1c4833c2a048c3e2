import { expect, test } from 'vitest';
import { Random } from './random.js';

test('the same seed gives the same numbers, another seed others', () => {
  const draw = (seed: number) => {
    const random = new Random(seed);
    return Array.from({ length: 8 }, () => random.uint32());
  };
  expect(draw(7)).toEqual(draw(7));
  expect(draw(7)).not.toEqual(draw(8));
});

test('uniform and normal draws have the moments of their distributions', () => {
  const random = new Random(1);
  const n = 100_000;
  let sum = 0;
  let normalSum = 0;
  let normalSquares = 0;
  for (let i = 0; i < n; i++) {
    sum += random.uniform();
    const z = random.normal();
    normalSum += z;
    normalSquares += z * z;
  }
  expect(sum / n).toBeCloseTo(0.5, 2);
  expect(normalSum / n).toBeCloseTo(0, 1);
  expect(normalSquares / n).toBeCloseTo(1, 1);
});

test('a permutation holds every index once', () => {
  const order = new Random(3).permutation(1000);
  expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
});

test('a fork depends on seed and label, not on how far its parent has advanced', () => {
  const fresh = new Random(5);
  const advanced = new Random(5);
  advanced.uint32();
  expect(fresh.fork('epoch 3').uint32()).toBe(advanced.fork('epoch 3').uint32());
  expect(fresh.fork('epoch 3').uint32()).not.toBe(fresh.fork('epoch 4').uint32());
});
