import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

interface NormAttributes {
  epsilon: number;
  centred: boolean;
}

function forward(
  x: tf.Tensor,
  scale: tf.Tensor,
  shift: tf.Tensor | undefined,
  attrs: NormAttributes,
) {
  if (hasKernel('LayerNorm')) {
    return runKernel('LayerNorm', shift ? { x, scale, shift } : { x, scale }, attrs) as tf.Tensor;
  }
  const centred = attrs.centred ? tf.sub(x, tf.mean(x, -1, true)) : x;
  const variance = tf.mean(tf.square(centred), -1, true);
  const scaled = tf.mul(tf.mul(centred, tf.rsqrt(tf.add(variance, attrs.epsilon))), scale);
  return shift ? tf.add(scaled, shift) : scaled;
}

function backward(
  x: tf.Tensor,
  scale: tf.Tensor,
  dy: tf.Tensor,
  attrs: NormAttributes,
): tf.Tensor[] {
  if (hasKernel('LayerNormGrad')) {
    return runKernel('LayerNormGrad', { x, scale, dy }, attrs) as tf.Tensor[];
  }
  const centred = attrs.centred ? tf.sub(x, tf.mean(x, -1, true)) : x;
  const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), attrs.epsilon));
  const normal = tf.mul(centred, inverse);
  const g = tf.mul(dy, scale);
  const along = tf.mul(normal, tf.mean(tf.mul(g, normal), -1, true));
  const across = attrs.centred ? tf.sub(g, tf.mean(g, -1, true)) : g;
  const rows = Array.from({ length: x.rank - 1 }, (_, axis) => axis);
  return [
    tf.mul(inverse, tf.sub(across, along)),
    tf.sum(tf.mul(dy, normal), rows),
    ...(attrs.centred ? [tf.sum(dy, rows)] : []),
  ];
}

/**
 * Layer norm over the last axis (Ba et al. 2016), with its gradient, fused where the backend has a `LayerNorm` kernel.
 *
 * @param x [..., d]
 * @param scale [d]
 * @param shift [d]
 * @param epsilon added to the variance
 * @returns [..., d]
 */
export function layerNorm<T extends tf.Tensor>(
  x: T,
  scale: tf.Tensor,
  shift: tf.Tensor,
  epsilon: number,
): T {
  const attrs = { epsilon, centred: true };
  const op = tf.customGrad((...inputs) => {
    const [x, scale, shift, save] = inputs as unknown as [
      tf.Tensor,
      tf.Tensor,
      tf.Tensor,
      tf.GradSaveFunc,
    ];
    save([x, scale]);
    return {
      value: forward(x, scale, shift, attrs),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) =>
        backward(saved[0] as tf.Tensor, saved[1] as tf.Tensor, dy, attrs),
    };
  });
  return op(x, scale, shift) as T;
}

/**
 * RMS norm over the last axis (Zhang and Sennrich 2019): x / √(mean(x²) + epsilon) · scale, with its gradient.
 *
 * @param x [..., d]
 * @param scale [d]
 * @param epsilon added to the mean square
 * @returns [..., d]
 */
export function rmsNorm<T extends tf.Tensor>(x: T, scale: tf.Tensor, epsilon: number): T {
  const attrs = { epsilon, centred: false };
  const op = tf.customGrad((...inputs) => {
    const [x, scale, save] = inputs as unknown as [tf.Tensor, tf.Tensor, tf.GradSaveFunc];
    save([x, scale]);
    return {
      value: forward(x, scale, undefined, attrs),
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) =>
        backward(saved[0] as tf.Tensor, saved[1] as tf.Tensor, dy, attrs),
    };
  });
  return op(x, scale) as T;
}
