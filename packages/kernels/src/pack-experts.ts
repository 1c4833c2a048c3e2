import { D2DMoEError } from '@d2dmoe/core';
import type { Tensor } from '@tensorflow/tfjs-core';
import type { FeedForwardWeights, PackedExperts } from './types.js';

/**
 * Declares every `expertSize` consecutive neurons of an FFN to be an expert. The weights are neuron-major, so an
 * expert's rows are contiguous already: the result shares the tensors of `weights`, which the caller still owns.
 *
 * @param expertSize Neurons per expert; must divide the hidden width.
 * @throws D2DMoEError `SHAPE_MISMATCH` if the tensors do not fit each other, `EXPERT_SIZE_INVALID` if the expert size
 *   does not divide the hidden width.
 */
export function packExperts(weights: FeedForwardWeights, expertSize: number): PackedExperts {
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
  return { ...weights, expertSize, experts: hidden / expertSize };
}

function checkShape(name: string, tensor: Tensor | undefined, expected: number[]): void {
  if (tensor && tensor.shape.join() !== expected.join()) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The FFN's ${name} has shape [${tensor.shape.join(', ')}]; its up projection asks for [${expected.join(', ')}].`,
    );
  }
}
