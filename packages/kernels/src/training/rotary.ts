import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

/** Cosines and sines of a rotary position embedding, [T, headDim] each. */
export interface Rotary {
  /** Each half of a row holds the same cosines. */
  cos: tf.Tensor2D;
  /** Negated in the first half of each row, so that a rotation is one exchange of halves and two products. */
  sin: tf.Tensor2D;
}

/**
 * The tables of RoPE (Su et al. 2021) for the T positions from `start` on; dimension i is paired with i + headDim/2.
 *
 * @param headDim even
 */
export function rotaryTables(
  start: number,
  positions: number,
  headDim: number,
  theta: number,
): Rotary {
  const half = headDim / 2;
  const cos = new Float32Array(positions * headDim);
  const sin = new Float32Array(positions * headDim);
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = (start + position) * theta ** (-i / half);
      const at = position * headDim + i;
      cos[at] = cos[at + half] = Math.cos(angle);
      sin[at + half] = Math.sin(angle);
      sin[at] = -Math.sin(angle);
    }
  }
  return {
    cos: tf.tensor2d(cos, [positions, headDim]),
    sin: tf.tensor2d(sin, [positions, headDim]),
  };
}

/**
 * Rotates the heads of each position by its angles, with the gradient; fused where the backend has a `Rotary` kernel.
 *
 * @param x [B·T, heads·headDim]
 * @param tables of the T positions
 */
export function rotate(x: tf.Tensor2D, { cos, sin }: Rotary): tf.Tensor2D {
  if (hasKernel('Rotary')) {
    const op = tf.customGrad((...inputs) => {
      const [x, save] = inputs as unknown as [tf.Tensor, tf.GradSaveFunc];
      save([cos, sin]);
      return {
        value: runKernel('Rotary', { x, cos, sin }, { direction: 1 }) as tf.Tensor,
        gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
          const [cos, sin] = saved as [tf.Tensor, tf.Tensor];
          return runKernel('Rotary', { x: dy, cos, sin }, { direction: -1 });
        },
      };
    });
    return op(x) as tf.Tensor2D;
  }
  const [rows, width] = x.shape;
  const [positions, headDim] = cos.shape;
  const heads = tf.reshape(x, [rows / positions, positions, width / headDim, headDim]);
  const perPosition = (table: tf.Tensor2D) => tf.reshape(table, [positions, 1, headDim]);
  const [first, second] = tf.split(heads, 2, -1) as [tf.Tensor, tf.Tensor];
  const turned = tf.add(
    tf.mul(heads, perPosition(cos)),
    tf.mul(tf.concat([second, first], -1), perPosition(sin)),
  );
  return tf.reshape(turned, [rows, width]);
}
