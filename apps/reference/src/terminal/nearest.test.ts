import { expect, test } from 'vitest';
import { nearest } from './nearest.js';

const flags = ['--tau', '--json', '--expert-size', '--router-width', '--seed'];

test.each([
  ['--tua', '--tau'],
  ['--tao', '--tau'],
  ['--josn', '--json'],
  ['--expertsize', '--expert-size'],
  ['--expert-szie', '--expert-size'],
  ['--router', '--router-width'],
  ['--sed', '--seed'],
])('%s is taken for %s', (word, flag) => {
  expect(nearest(word, flags)).toBe(flag);
});

test.each(['--output', '--x', '--', '--abc'])('%s is near to nothing', (word) => {
  expect(nearest(word, flags)).toBeUndefined();
});
