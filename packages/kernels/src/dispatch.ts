import * as tf from '@tensorflow/tfjs-core';

/** Whether the current backend has registered a tfjs kernel of this name. */
export function hasKernel(name: string): boolean {
  return tf.getKernel(name, tf.getBackend()) !== undefined;
}

/** Runs a tfjs kernel of the current backend that is not part of tfjs-core's own op set. */
export function runKernel(
  name: string,
  inputs: Record<string, tf.Tensor>,
  attributes: object,
): tf.Tensor | tf.Tensor[] {
  return tf.engine().runKernel(name, inputs, attributes as tf.NamedAttrMap);
}
