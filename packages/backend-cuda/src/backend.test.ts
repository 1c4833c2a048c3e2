import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { nearest } from '../testing/halves.js';
import { emulated } from '../testing/emulated.js';
import { kernel } from './launch.js';

const toBf16 = kernel('convert', 'convert_f32_to_bf16', 'p p l');

const filled = (size: number, value: number) => tf.tensor1d(new Float32Array(size).fill(value));

emulated('the backend', (cuda) => {
  let before = tf.memory();
  beforeEach(() => {
    before = tf.memory();
  });
  afterEach(() => {
    const { numTensors, numDataBuffers } = tf.memory();
    if (numTensors === before.numTensors && numDataBuffers === before.numDataBuffers) return;
    throw new Error(`${numTensors - before.numTensors} tensors were left.`);
  });

  /** The tensor, moved to the device, so that nothing of it is left on the host. */
  const onDevice = <T extends tf.Tensor>(t: T): T => {
    cuda().mutablePointer(t);
    return t;
  };

  test('values come back from the device as they went, for every dtype', async () => {
    const tensors = [
      tf.tensor1d([1.5, -0, Number.NaN, Number.POSITIVE_INFINITY]),
      tf.tensor2d([1, -2, 2 ** 31 - 1, -(2 ** 31)], [2, 2], 'int32'),
      tf.tensor1d([true, false, true], 'bool'),
      tf.scalar(7),
      tf.tensor2d([], [0, 3]),
    ];
    for (const t of tensors) {
      const expected = t.dataSync().slice();
      onDevice(t);
      expect(t.dataSync()).toEqual(expected);
      expect(await t.data()).toEqual(expected);
      expect(t.dataSync().constructor).toBe(expected.constructor);
    }
    tf.dispose(tensors);
  });

  test.each([1, 1000, 2 ** 20 - 1, 2 ** 20, 2 ** 20 + 1, 2 ** 21 + 3])(
    '%i floats come back, over the borders of the staging buffers',
    async (size) => {
      const values = Float32Array.from({ length: size }, (_, i) => i % 977);
      const t = onDevice(tf.tensor1d(values.slice()));
      expect(Buffer.compare(Buffer.from(t.dataSync().buffer), Buffer.from(values.buffer))).toBe(0);
      const read = await t.data();
      expect(Buffer.compare(Buffer.from(read.buffer), Buffer.from(values.buffer))).toBe(0);
      t.dispose();
    },
  );

  test('many small uploads do not overwrite each other', () => {
    const tensors = Array.from({ length: 3000 }, (_, i) => filled(700, i));
    for (const t of tensors) onDevice(t);
    for (const [i, t] of tensors.entries()) expect(t.dataSync()[699]).toBe(i);
    tf.dispose(tensors);
  });

  test('strings stay on the host', () => {
    const t = tf.tensor1d(['α', 'b']);
    expect(t.dataSync()).toEqual(['α', 'b']);
    expect(() => cuda().pointer(t)).toThrow(/string tensor has no form on the device/);
    t.dispose();
  });

  test('a complex tensor has the memory of its parts, and outlives and survives them', async () => {
    const [real, imag] = [onDevice(tf.tensor1d([1, 2])), tf.tensor1d([3, 4])];
    const ids = cuda().numDataIds();
    const own = (t: tf.TensorInfo) => tf.engine().makeTensorFromTensorInfo(t, cuda());
    const c = own(cuda().complex(real, imag));
    expect(cuda().pointer(cuda().complexParts(c).real)).toBe(cuda().pointer(real));
    tf.dispose([real, imag]);
    const again = own(cuda().alias(cuda().complexParts(c).imag, [2]));
    expect([...c.dataSync()]).toEqual([1, 3, 2, 4]);
    expect([...(await c.data())]).toEqual([1, 3, 2, 4]);
    expect(() => cuda().pointer(c)).toThrow(/complex64/);
    expect(() => cuda().complexParts(again)).toThrow(/float32 tensor has no/);
    c.dispose();
    expect([...again.dataSync()]).toEqual([3, 4]);
    again.dispose();
    expect(cuda().numDataIds()).toBe(ids - 2);
  });

  test('tensors move to the cpu backend and back', async () => {
    const t = onDevice(tf.tensor1d([1, 2, 3]));
    const backend = cuda();
    await tf.setBackend('cpu');
    const sum = tf.add(t, 1);
    expect([...sum.dataSync()]).toEqual([2, 3, 4]);
    await tf.setBackend('cuda');
    backend.pointer(sum);
    expect([...sum.dataSync()]).toEqual([2, 3, 4]);
    tf.dispose([t, sum]);
  });

  test('data is kept as long as one tensor refers to it', () => {
    const t = onDevice(tf.tensor1d([1, 2, 3, 4]));
    const ids = cuda().numDataIds();
    const view = tf.engine().makeTensorFromTensorInfo(cuda().alias(t, [2, 2]), cuda());
    expect([cuda().numDataIds(), cuda().refCount(t.dataId)]).toEqual([ids, 2]);
    t.dispose();
    expect(view.arraySync()).toEqual([
      [1, 2],
      [3, 4],
    ]);
    view.dispose();
    expect([cuda().numDataIds(), cuda().refCount(t.dataId)]).toEqual([ids - 1, 0]);
    expect(cuda().disposeData(t.dataId)).toBe(true);
  });

  test('disposed memory is reused: ten thousand tensors take no more than one', () => {
    onDevice(filled(1000, 1)).dispose();
    const { numBytesInGPU, numBytesInGPUAllocated } = cuda().memory();
    for (let i = 0; i < 10_000; i++) cuda().disposeData(cuda().output([1000], 'float32').dataId);
    expect(cuda().memory()).toMatchObject({
      unreliable: false,
      numBytesInGPU,
      numBytesInGPUAllocated,
    });
    const held = cuda().output([1000], 'float32');
    expect(cuda().memory().numBytesInGPU).toBe(numBytesInGPU + 4096);
    cuda().disposeData(held.dataId);
    cuda().trim();
    expect(cuda().memory().numBytesInGPUFree).toBe(0);
  });

  test.each([
    ['bf16', {}],
    ['fp16', { min: -65504, max: 65504 }],
  ] as const)(
    'the %s form is made once, rounded to nearest even, and dropped when the tensor is changed in place',
    (type, range) => {
      fc.assert(
        fc.property(
          fc.array(fc.float({ noNaN: true, noDefaultInfinity: true, ...range }), {
            minLength: 1,
            maxLength: 50,
          }),
          (values) => {
            const t = tf.tensor1d(values, 'float32');
            const from = t.dataSync().slice();
            expect(cuda().has16(t, type)).toBe(false);
            const pointer = cuda().pointer16(t, type);
            expect(cuda().pointer16(t, type)).toBe(pointer);
            expect(cuda().has16(t, type)).toBe(true);
            // Seen as the only form of another tensor, whose float32 form is converted back.
            const only = cuda().output16([values.length], type);
            cuda().copy(only.pointer, pointer, values.length * 2);
            expect(cuda().isOnly16(only, type)).toBe(true);
            const back = cuda().readSync(only.dataId) as Float32Array;
            expect([...back]).toEqual([...from].map(nearest[type]));
            cuda().mutablePointer(t);
            expect(cuda().has16(t, type)).toBe(false);
            cuda().disposeData(only.dataId);
            t.dispose();
          },
        ),
        { numRuns: 30 },
      );
      const ints = tf.tensor1d([1], 'int32');
      expect(() => cuda().pointer16(ints, type)).toThrow(`int32 tensor has no ${type} form`);
      ints.dispose();
    },
  );

  test('a read that is under way gets the values of a tensor that is disposed and overwritten meanwhile', async () => {
    const size = 3 * 2 ** 20;
    const t = onDevice(filled(size, 5));
    const reading = t.data();
    t.dispose();
    const next = onDevice(filled(size, 6));
    const values = await reading;
    expect(values.every((value) => value === 5)).toBe(true);
    next.dispose();
  });

  test('memset and copy', () => {
    const a = cuda().output([5], 'bool');
    const b = cuda().output([5], 'bool');
    cuda().memset(a.pointer, 5);
    cuda().copy(b.pointer, a.pointer, 5);
    expect([...(cuda().readSync(b.dataId) as Uint8Array)]).toEqual([0, 0, 0, 0, 0]);
    cuda().disposeData(a.dataId);
    cuda().disposeData(b.dataId);
  });

  test('time() gives the device’s and the host’s milliseconds', async () => {
    const t = onDevice(filled(2 ** 20, 1));
    const info = await cuda().time(() => void cuda().pointer16(t));
    expect(info.kernelMs).toBeGreaterThan(0);
    expect(info.wallMs).toBeGreaterThanOrEqual((info.kernelMs as number) * 0.99);
    t.dispose();
  });

  test('a graph repeats its work on the tensors that it was recorded with', () => {
    const x = onDevice(tf.tensor1d([1, 2, 3, 4]));
    const y = cuda().output16([4]);
    const graph = cuda().capture(() => {
      const added = tf.tensor1d([9, 9, 9, 9]);
      cuda().launch(toBf16, 1, 32, [cuda().pointer(x), y.pointer, 4]);
      onDevice(added).dispose();
    });
    graph.launch();
    expect([...cuda().hostValues(y)]).toEqual([1, 2, 3, 4]);
    cuda().memset(cuda().mutablePointer(x), 16);
    graph.launch();
    cuda().disposeData(y.dataId);
    graph.dispose();
    x.dispose();
  });

  test('a tensor that is collected without dispose gives its memory back, and a warning is given once', async () => {
    setFlagsFromString('--expose-gc');
    const collect = runInNewContext('gc') as () => void;
    const warn = vi.spyOn(console, 'warn').mockImplementation(() => {});
    const ids = cuda().numDataIds();
    const { numBytesInGPU } = cuda().memory();
    (() => {
      for (let i = 0; i < 20; i++) cuda().output([1000], 'float32');
    })();
    expect(cuda().numDataIds()).toBe(ids + 20);
    for (let i = 0; i < 20 && cuda().numDataIds() > ids; i++) {
      await new Promise((resolve) => setTimeout(resolve, 10));
      collect();
    }
    expect(cuda().numDataIds()).toBe(ids);
    expect(cuda().memory().numBytesInGPU).toBe(numBytesInGPU);
    expect(warn).toHaveBeenCalledOnce();
    expect(warn.mock.calls[0]?.[0]).toMatch(/garbage collected without dispose/);
    warn.mockRestore();
  });
});
