import * as tf from '@tensorflow/tfjs-core';
import type { WasmContext } from './module.js';
import { partsFor } from './parts.js';

interface MatMulAttributes {
  transposeA: boolean;
  transposeB: boolean;
}

interface FusedAttributes extends MatMulAttributes {
  activation?: tf.fused.Activation;
  leakyreluAlpha?: number;
}

/** Multiplies batches of matrices; batch axes broadcast. `bias` is [n] or absent. */
function multiply(
  { backend, pool, pointer, scratch }: WasmContext,
  a: tf.TensorInfo,
  b: tf.TensorInfo,
  { transposeA, transposeB }: MatMulAttributes,
  bias?: tf.TensorInfo,
  relu = false,
): tf.TensorInfo {
  const [aRows, aColumns] = a.shape.slice(-2) as [number, number];
  const [bRows, bColumns] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [aColumns, aRows] : [aRows, aColumns];
  const [kB, n] = transposeB ? [bColumns, bRows] : [bRows, bColumns];
  tf.util.assert(
    k === kB,
    () =>
      `matMul: inner dimensions ${k} and ${kB} of shapes [${a.shape.join(', ')}] and [${b.shape.join(', ')}] differ.`,
  );
  const batchA = a.shape.slice(0, -2);
  const batchB = b.shape.slice(0, -2);
  const batch = tf.broadcast_util.assertAndGetBroadcastShape(batchA, batchB);
  const out = backend.makeOutput([...batch, m, n], 'float32');
  const products = tf.util.sizeFromShape(batch);
  const aPointer = pointer(a);
  const bPointer = pointer(b);
  const cPointer = pointer(out);
  const biasPointer = bias === undefined ? 0 : pointer(bias);
  const run = (
    count: number,
    aFirst: number,
    aStep: number,
    bFirst: number,
    bStep: number,
    first: number,
  ) =>
    pool.run(
      'matMul',
      [
        aPointer + aFirst * m * k * 4,
        bPointer + bFirst * k * n * 4,
        cPointer + first * m * n * 4,
        biasPointer,
        count,
        aStep * m * k,
        bStep * k * n,
        m,
        n,
        k,
        transposeA ? 1 : 0,
        transposeB ? 1 : 0,
        relu ? 1 : 0,
        scratch,
      ],
      partsFor(count * m * n * k, pool.threads),
    );
  const aSize = tf.util.sizeFromShape(batchA);
  const bSize = tf.util.sizeFromShape(batchB);
  if ((aSize === 1 || aSize === products) && (bSize === 1 || bSize === products)) {
    run(products, 0, aSize === 1 ? 0 : 1, 0, bSize === 1 ? 0 : 1, 0);
  } else {
    const aOffset = batchOffsets(batchA, batch);
    const bOffset = batchOffsets(batchB, batch);
    for (let i = 0; i < products; i++) run(1, aOffset(i), 0, bOffset(i), 0, i);
  }
  return out;
}

/** Which matrix of an operand with batch axes `from` belongs to product i of the broadcast batch axes `to`. */
function batchOffsets(from: number[], to: number[]): (i: number) => number {
  const padded = [...Array.from({ length: to.length - from.length }, () => 1), ...from];
  const strides = tf.util.computeStrides([...padded, 1]);
  return (i) => {
    let offset = 0;
    let rest = i;
    for (let axis = to.length - 1; axis >= 0; axis--) {
      const length = to[axis] as number;
      if (padded[axis] !== 1) offset += (rest % length) * (strides[axis] as number);
      rest = Math.floor(rest / length);
    }
    return offset;
  };
}

function assertFloat32(...tensors: tf.TensorInfo[]): void {
  for (const { dtype } of tensors) {
    tf.util.assert(
      dtype === 'float32',
      () => `matMul: a tensor has dtype ${dtype}; only float32 can be multiplied.`,
    );
  }
}

export function batchMatMulKernel(context: WasmContext) {
  return {
    kernelName: tf.BatchMatMul,
    kernelFunc: ({
      inputs,
      attrs,
    }: {
      inputs: { a: tf.TensorInfo; b: tf.TensorInfo };
      attrs: MatMulAttributes;
    }) => {
      assertFloat32(inputs.a, inputs.b);
      return multiply(context, inputs.a, inputs.b, attrs);
    },
  };
}

export function fusedMatMulKernel(context: WasmContext) {
  // tfjs's own kernel for the activations that are not fused here.
  const original = tf.getKernel(tf._FusedMatMul, 'wasm');
  return {
    kernelName: tf._FusedMatMul,
    kernelFunc: (params: {
      inputs: {
        a: tf.TensorInfo;
        b: tf.TensorInfo;
        bias?: tf.TensorInfo;
        preluActivationWeights?: tf.TensorInfo;
      };
      attrs: FusedAttributes;
      backend: unknown;
    }) => {
      const { a, b, bias } = params.inputs;
      const { activation = 'linear' } = params.attrs;
      const columns = params.attrs.transposeB ? b.shape.at(-2) : b.shape.at(-1);
      const fusable = bias === undefined || tf.util.sizeFromShape(bias.shape) === columns;
      if (!fusable || (activation !== 'linear' && activation !== 'relu')) {
        return original.kernelFunc(
          params as unknown as Parameters<tf.KernelFunc>[0],
        ) as tf.TensorInfo;
      }
      assertFloat32(a, b);
      return multiply(context, a, b, params.attrs, bias, activation === 'relu');
    },
  };
}
