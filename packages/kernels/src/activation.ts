import * as tf from '@tensorflow/tfjs-core';
import type { GradSaveFunc, Tensor } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from './dispatch.js';
import type { Activation } from './types.js';

/**
 * Applies an FFN's activation element by element; differentiable once. A kernel and one for its gradient where the
 * backend has `GeluGrad`, `SiluGrad`, `ReluGrad`, tfjs's own ops elsewhere. The absolute error in float32 is below 1e-6 for |x| ≤ 10.
 *
 * @param x Any shape.
 * @returns The shape of x.
 */
export function activate<T extends Tensor>(x: T, activation: Activation): T {
  const kernel = kernels[activation];
  if (hasKernel(`${kernel.name}Grad`)) return fused(x, kernel) as T;
  return activations[activation](x) as T;
}

/** What a backend may have a kernel and a gradient kernel for: `Gelu` (x → y) and `GeluGrad` (x, dy → dx), say. */
interface ActivationKernel {
  name: string;
  attributes: object;
}

const kernels: Record<Activation, ActivationKernel> = {
  relu: { name: 'Relu', attributes: {} },
  gelu: { name: 'Gelu', attributes: { approximation: 'erf' } },
  gelu_tanh: { name: 'Gelu', attributes: { approximation: 'tanh' } },
  silu: { name: 'Silu', attributes: {} },
};

function fused(x: Tensor, { name, attributes }: ActivationKernel): Tensor {
  const op = tf.customGrad((...inputs) => {
    const [x, save] = inputs as unknown as [Tensor, GradSaveFunc];
    const value = runKernel(name, { x }, attributes) as Tensor;
    // ReLU's output is positive where its input is, and is kept for the next product anyway.
    save([name === 'Relu' ? value : x]);
    return {
      value,
      gradFunc: (dy: Tensor, saved: Tensor[]) =>
        runKernel(`${name}Grad`, { x: saved[0] as Tensor, dy }, attributes),
    };
  });
  return op(x);
}

/** x·Φ(x), Φ the normal distribution's cumulative function; its derivative is Φ(x) + x·φ(x). */
const gelu = differentiable((x) => {
  const cdf = tf.mul(tf.add(tf.erf(tf.mul(x, Math.SQRT1_2)), 1), 0.5);
  return { value: tf.mul(x, cdf), saved: [x, cdf] };
}, geluDerivative);

function geluDerivative([x, cdf]: Tensor[]): Tensor {
  const density = tf.mul(tf.exp(tf.mul(tf.square(x as Tensor), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return tf.add(cdf as Tensor, tf.mul(x as Tensor, density));
}

const tanhScale = Math.sqrt(2 / Math.PI);
const tanhCubic = 0.044715;

/** 0.5·x·(1 + tanh(g)), written as x·σ(2g), which is the same and keeps the negative tail's relative accuracy. */
const geluTanh = differentiable((x) => {
  const inner = tf.add(tf.mul(tf.square(x), 2 * tanhScale * tanhCubic), 2 * tanhScale);
  const gate = tf.sigmoid(tf.mul(x, inner));
  return { value: tf.mul(x, gate), saved: [x, gate] };
}, geluTanhDerivative);

function geluTanhDerivative([x, gate]: Tensor[]): Tensor {
  const slope = tf.add(tf.mul(tf.square(x as Tensor), 6 * tanhScale * tanhCubic), 2 * tanhScale);
  return gatedDerivative(tf.mul(x as Tensor, slope), gate as Tensor);
}

const silu = differentiable(
  (x) => {
    const gate = tf.sigmoid(x);
    return { value: tf.mul(x, gate), saved: [x, gate] };
  },
  ([x, gate]) => gatedDerivative(x as Tensor, gate as Tensor),
);

/** The derivative of x·σ(g): σ + σ·(1 − σ)·(x·g′). */
function gatedDerivative(xSlope: Tensor, gate: Tensor): Tensor {
  return tf.mul(gate, tf.add(tf.mul(tf.sub(1, gate), xSlope), 1));
}

/** An element-wise op from its value and its derivative in closed form, which saves what the derivative needs. */
function differentiable(
  forward: (x: Tensor) => { value: Tensor; saved: Tensor[] },
  derivative: (saved: Tensor[]) => Tensor,
): (x: Tensor) => Tensor {
  return tf.customGrad((x, save) => {
    const { value, saved } = forward(x as Tensor);
    (save as (tensors: Tensor[]) => void)(saved);
    return {
      value,
      gradFunc: (dy: Tensor, kept: Tensor[]) => tf.mul(dy, derivative(kept)),
    };
  });
}

const activations: Record<Activation, (x: Tensor) => Tensor> = {
  relu: (x) => tf.relu(x),
  gelu,
  gelu_tanh: geluTanh,
  silu,
};
