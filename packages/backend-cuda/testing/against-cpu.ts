import '@tensorflow/tfjs-backend-cpu';
// Registers the gradients of tfjs-core's ops.
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import { expect } from 'vitest';

/** A seeded stream of float32 values in [-1, 1), so that a failing case can be run again. */
export function valuesOf(size: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: size }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) / 2 ** 23 - 1;
  });
}

/** An input of a comparison, made anew on each backend. */
export interface Input {
  readonly values: Float32Array | Int32Array;
  readonly shape: number[];
}

/** A random float32 input. */
export function input(shape: number[], seed: number): Input {
  return { values: valuesOf(tf.util.sizeFromShape(shape), seed), shape };
}

async function outputsOn(
  backend: string,
  inputs: readonly Input[],
  compute: (...inputs: tf.Tensor[]) => tf.Tensor[],
): Promise<{ shape: number[]; dtype: string; values: ArrayLike<number> }[]> {
  await tf.setBackend(backend);
  const tensors = inputs.map(({ values, shape }) =>
    tf.tensor(values, shape, values instanceof Int32Array ? 'int32' : 'float32'),
  );
  const before = tf.memory().numTensors;
  const outputs = tf.tidy(() => compute(...tensors));
  const results = [];
  for (const output of outputs) {
    const { shape, dtype } = output;
    results.push({ shape, dtype, values: (await output.data()) as ArrayLike<number> });
  }
  tf.dispose(outputs);
  expect(tf.memory().numTensors).toBe(before);
  tf.dispose(tensors);
  return results;
}

/**
 * How far the backend `cuda` is from tfjs's backend `cpu`: the greatest difference of a value, in proportion to the
 * greatest value of its output, or to 1. Shapes, types and the count of tensors left behind must agree.
 */
export async function errorAgainstCpu(
  inputs: readonly Input[],
  compute: (...inputs: tf.Tensor[]) => tf.Tensor[],
): Promise<number> {
  let expected: Awaited<ReturnType<typeof outputsOn>>;
  try {
    expected = await outputsOn('cpu', inputs, compute);
  } finally {
    await tf.setBackend('cuda');
  }
  const actual = await outputsOn('cuda', inputs, compute);
  const kind = ({ shape, dtype }: { shape: number[]; dtype: string }) => ({ shape, dtype });
  expect(actual.map(kind)).toEqual(expected.map(kind));
  let error = 0;
  for (const [i, { values }] of expected.entries()) {
    const got = actual[i]?.values ?? [];
    const greatest = Array.from(values).reduce((most, v) => Math.max(most, Math.abs(v)), 1);
    for (let j = 0; j < values.length; j++) {
      const difference = Math.abs((values[j] ?? 0) - (got[j] ?? Number.NaN)) / greatest;
      // Not Math.max: NaN must stay.
      if (!(difference <= error)) error = difference;
    }
  }
  return error;
}
