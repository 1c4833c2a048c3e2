import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from './dispatch.js';
import { weightTensors } from './feed-forward.js';
import type { ExpertStorage, FeedForwardWeights, PackedExperts } from './types.js';

/**
 * The tfjs kernel that a backend registers to lay out experts for its own DynamicKExperts kernel. Inputs: the tensors
 * of {@link FeedForwardWeights}; attributes: {@link PackExpertsAttrs}; output: a list of tensors of any form, which
 * DynamicKExperts gets as its inputs `packed0`, `packed1`, ….
 */
export const PackExperts = 'PackExperts';

/** Attributes of the {@link PackExperts} kernel. */
export type PackExpertsAttrs = {
  /** Neurons per expert. */
  expertSize: number;
  storage: ExpertStorage;
};

/**
 * Makes every `expertSize` consecutive neurons of an FFN an expert and lays the weights out as the current backend's
 * expert op reads them. The result shares nothing with `weights`: dispose those if the dense FFN is not needed as well,
 * and the result when it has served.
 *
 * `int8` rounds every neuron's row of up, gate and down to 255 steps of a scale of its own. Only backends with a layout
 * of their own have it: the wasm backend with this package's kernels, and cuda, which has `float16` and `bfloat16` too.
 *
 * @param expertSize Neurons per expert; must divide the hidden width.
 * @throws D2DMoEError `SHAPE_MISMATCH` if the tensors do not fit each other, `EXPERT_SIZE_INVALID` if the expert size
 *   does not divide the hidden width, `STORAGE_UNSUPPORTED` if the current backend lacks the storage.
 */
export function packExperts(
  weights: FeedForwardWeights,
  expertSize: number,
  { storage = 'float32' }: { storage?: ExpertStorage } = {},
): PackedExperts {
  const [hidden, dIn] = weights.up.shape;
  const [, dOut] = weights.down.shape;
  checkShape('gate', weights.gate, [hidden, dIn]);
  checkShape('upBias', weights.upBias, [hidden]);
  checkShape('gateBias', weights.gateBias, [hidden]);
  checkShape('down', weights.down, [hidden, dOut]);
  checkShape('downBias', weights.downBias, [dOut]);
  if (weights.gateBias && !weights.gate) {
    throw new D2DMoEError('SHAPE_MISMATCH', 'An FFN with a gateBias needs a gate.');
  }
  if (!(Number.isInteger(expertSize) && expertSize >= 1 && hidden % expertSize === 0)) {
    throw new D2DMoEError(
      'EXPERT_SIZE_INVALID',
      `The expert size must be a positive integer that divides the hidden width ${hidden}, not ${expertSize}.`,
    );
  }
  const backend = hasKernel(PackExperts) ? tf.getBackend() : undefined;
  if (backend === undefined && storage !== 'float32') {
    throw new D2DMoEError(
      'STORAGE_UNSUPPORTED',
      `The ${tf.getBackend()} backend has no packed experts in ${storage}: use float32, the wasm backend with this package's kernels, or cuda.`,
    );
  }
  const tensors =
    backend === undefined ? copies(weights) : backendLayout(weights, { expertSize, storage });
  return {
    dIn,
    dOut,
    expertSize,
    experts: hidden / expertSize,
    activation: weights.activation,
    storage,
    ...(backend !== undefined && { backend }),
    tensors,
    dispose: () => tf.dispose(Object.values(tensors)),
  };
}

function backendLayout(weights: FeedForwardWeights, attrs: PackExpertsAttrs) {
  const packed = runKernel(PackExperts, weightTensors(weights), attrs) as Tensor[];
  return Object.fromEntries(packed.map((tensor, i) => [`packed${i}`, tf.keep(tensor)]));
}

function copies(weights: FeedForwardWeights): Record<string, Tensor> {
  const tensors = Object.entries(weightTensors(weights));
  return Object.fromEntries(tensors.map(([name, tensor]) => [name, tf.keep(tf.clone(tensor))]));
}

function checkShape(name: string, tensor: Tensor | undefined, expected: number[]): void {
  if (tensor && tensor.shape.join() !== expected.join()) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The FFN's ${name} has shape [${tensor.shape.join(', ')}]; its up projection asks for [${expected.join(', ')}].`,
    );
  }
}
