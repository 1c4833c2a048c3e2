import { D2DMoEError } from '@d2dmoe/core';
import { expect, test } from 'vitest';
import { bufferSource, encodeSafetensors, openSharded, type ByteSource } from './index.js';

const tensor = (name: string, ...values: number[]) => ({
  name,
  dtype: 'F32' as const,
  shape: [values.length],
  data: Float32Array.from(values),
});

/** Two shards and how many of them are open. */
function shards() {
  const files: Record<string, Uint8Array> = {
    'one.safetensors': encodeSafetensors([tensor('a', 1), tensor('b', 2, 3)], { format: 'pt' }),
    'two.safetensors': encodeSafetensors([tensor('c', 4), tensor('unlisted', 0)]),
  };
  const count = { open: 0 };
  const open = async (file: string): Promise<ByteSource> => {
    const bytes = files[file];
    if (bytes === undefined) {
      throw new D2DMoEError('SAFETENSORS_FILE_MISSING', `${file}: there is no such file.`);
    }
    count.open++;
    return { ...bufferSource(bytes, file), close: async () => void count.open-- };
  };
  return { files, open, count };
}

const weightMap = { a: 'one.safetensors', b: 'one.safetensors', c: 'two.safetensors' };

test('tensors are read from their shards under one interface', async () => {
  const { open, count } = shards();
  const checkpoint = await openSharded({ metadata: {}, weight_map: weightMap }, open);
  expect([...checkpoint.tensors.keys()]).toEqual(['a', 'b', 'c']);
  expect(checkpoint.tensors.get('b')).toMatchObject({ shape: [2], file: 'one.safetensors' });
  expect(checkpoint.metadata).toEqual({ format: 'pt' });
  expect(await checkpoint.readFloat32('b')).toEqual(Float32Array.of(2, 3));
  expect(await checkpoint.read('c')).toEqual(new Uint8Array(Float32Array.of(4).buffer));
  await expect(checkpoint.readInt32('c')).rejects.toMatchObject({
    code: 'SAFETENSORS_DTYPE_MISMATCH',
  });
  await expect(checkpoint.read('unlisted')).rejects.toMatchObject({
    code: 'SAFETENSORS_TENSOR_MISSING',
  });
  expect(count.open).toBe(2);
  await checkpoint.close();
  expect(count.open).toBe(0);
});

test('a missing shard is named, and the others are closed', async () => {
  const { open, count } = shards();
  await expect(
    openSharded({ weight_map: { ...weightMap, d: 'three.safetensors' } }, open),
  ).rejects.toMatchObject({
    code: 'SAFETENSORS_SHARD_MISSING',
    message: expect.stringContaining('shard "three.safetensors"'),
  });
  expect(count.open).toBe(0);
});

test('a tensor that its shard lacks is named, and the shards are closed', async () => {
  const { open, count } = shards();
  await expect(
    openSharded({ weight_map: { ...weightMap, c: 'one.safetensors' } }, open),
  ).rejects.toMatchObject({
    code: 'SAFETENSORS_TENSOR_MISSING',
    message: expect.stringMatching(/tensor "c" into "one.safetensors"/),
  });
  expect(count.open).toBe(0);
});

test('a damaged shard gives its own error, and the others are closed', async () => {
  const { files, open, count } = shards();
  files['two.safetensors'] = (files['two.safetensors'] as Uint8Array).slice(0, -1);
  await expect(openSharded({ weight_map: weightMap }, open)).rejects.toMatchObject({
    code: 'SAFETENSORS_TRUNCATED',
    message: expect.stringContaining('two.safetensors'),
  });
  expect(count.open).toBe(0);
});

test.each([
  ['no object', []],
  ['without weight_map', {}],
  ['with a list as weight_map', { weight_map: ['a'] }],
  ['with a number for a shard', { weight_map: { a: 1 } }],
  ['with an empty name', { weight_map: { a: '' } }],
  ['with a path upwards', { weight_map: { a: '../one.safetensors' } }],
  ['with the folder above', { weight_map: { a: '..' } }],
  ['with an absolute path', { weight_map: { a: '/etc/passwd' } }],
  ['with backslashes', { weight_map: { a: '..\\one.safetensors' } }],
  ['with a URL', { weight_map: { a: 'https://example.com' } }],
  ['with a drive', { weight_map: { a: 'c:one.safetensors' } }],
])('an index %s is refused before anything is opened', async (_what, index) => {
  const open = () => Promise.reject(new Error('opened'));
  await expect(openSharded(index, open)).rejects.toMatchObject({
    code: 'SAFETENSORS_INDEX_INVALID',
    message: expect.stringContaining('model.safetensors.index.json: weight_map'),
  });
});
