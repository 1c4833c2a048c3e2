import { readFile } from 'node:fs/promises';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { useWasm } from '../node.js';
import { withMemoryShared } from './memory-sharing.js';

test('an imported memory becomes shared and back, in one byte', async () => {
  const bytes = await readFile(new URL('../../dist/wasm/kernels.wasm', import.meta.url));
  for (const shared of [true, false]) {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 65_536, shared });
    const changed = withMemoryShared(bytes, shared);
    expect(changed.filter((byte, i) => byte !== bytes[i]).length).toBeLessThanOrEqual(1);
    await WebAssembly.instantiate(changed, { env: { memory } });
    const other = withMemoryShared(bytes, !shared);
    await expect(WebAssembly.instantiate(other, { env: { memory } })).rejects.toThrow(/shared/);
  }
});

test('what is no module with a bounded memory is refused', () => {
  const empty = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);
  const unbounded = new Uint8Array([...empty, 5, 3, 1, 0, 1]);
  const noise = Uint8Array.from({ length: 500 }, (_, i) => (i * 37) % 256);
  for (const bytes of [new Uint8Array(), empty, unbounded, noise]) {
    expect(() => withMemoryShared(bytes, true)).toThrow(/no memory with a maximum size/);
  }
});

test('over memory that is not shared there is one thread, and no more can be had', async () => {
  await tf.setBackend('wasm');
  expect(await useWasm()).toMatchObject({ threads: 1 });
  await expect(useWasm({ threads: 2 })).rejects.toMatchObject({ code: 'THREADS_UNAVAILABLE' });
  const a = tf.tensor2d([1, 2, 3, 4], [2, 2]);
  expect([...tf.matMul(a, a).dataSync()]).toEqual([7, 10, 15, 22]);
});
