import { expect, test } from 'vitest';
import { readWebGPUOptions } from './options.js';

test('options are read', () => {
  expect(readWebGPUOptions(['webgpu'])).toEqual({
    filter: '',
    quick: false,
    page: false,
  });
  expect(readWebGPUOptions(['webgpu', '--quick', '--filter', '197', '--json', 'out.json'])).toEqual(
    { filter: '197', quick: true, page: false, json: 'out.json' },
  );
});

test('a page is asked for', () => {
  expect(readWebGPUOptions(['webgpu', '--page']).page).toBe(true);
});

test('what makes no sense is refused', () => {
  expect(() => readWebGPUOptions(['webgl'])).toThrow('webgl');
  expect(() => readWebGPUOptions(['webgpu', '--threads', '2'])).toThrow('threads');
});
