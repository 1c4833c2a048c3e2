import { expect, test } from 'vitest';
import { readCudaOptions } from './options.js';

test('every row at full size unless told otherwise', () => {
  expect(readCudaOptions(['cuda'])).toEqual({ filter: '', quick: false });
});

test('every option is taken over', () => {
  const args = 'cuda --json out.json --filter host --checkpoint model --peers scripts --quick';
  expect(readCudaOptions(args.split(' '))).toEqual({
    json: 'out.json',
    filter: 'host',
    checkpoint: 'model',
    peers: 'scripts',
    quick: true,
  });
});

test('what makes no sense is refused', () => {
  expect(() => readCudaOptions(['cpu'])).toThrow('"cpu"');
  expect(() => readCudaOptions(['cuda', '--threads', '2'])).toThrow('--threads');
});
