import { expect, test } from 'vitest';
import { readOptions } from './options.js';

test('one thread and 21 rounds unless told otherwise', () => {
  expect(readOptions(['cpu'])).toEqual({ threads: 1, rounds: 21, quick: false });
  expect(readOptions(['cpu', '--quick']).rounds).toBe(5);
});

test('every option is taken over', () => {
  const args = 'cpu --json out.json --filter batched --threads 2 --runs 7 --quick'.split(' ');
  expect(readOptions(args)).toEqual({
    json: 'out.json',
    filter: 'batched',
    threads: 2,
    rounds: 7,
    quick: true,
  });
});

test('what makes no sense is refused', () => {
  expect(() => readOptions([])).toThrow('"cpu"');
  expect(() => readOptions(['gpu'])).toThrow('"gpu"');
  expect(() => readOptions(['cpu', '--threads', '0'])).toThrow('--threads');
  expect(() => readOptions(['cpu', '--runs', 'many'])).toThrow('--runs');
  expect(() => readOptions(['cpu', '--verbose'])).toThrow('--verbose');
});
