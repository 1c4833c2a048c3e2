import type { Random } from '@d2dmoe/core';
import type { RouterWeights } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** A router whose weights can be trained; usable wherever {@link RouterWeights} are. */
export interface TrainableRouter extends RouterWeights {
  /** [width, dIn] */
  hidden: tf.Variable<tf.Rank.R2>;
  /** [experts, width] */
  output: tf.Variable<tf.Rank.R2>;
}

/** The shape of a router and where its first weights come from. */
export interface RouterSettings {
  /** Width of the converted layer's input. */
  dIn: number;
  /** Hidden width; 128 for dIn = 768 and 512 for dIn = 2048 in Szatkowski et al. 2024. */
  width: number;
  /** Number of experts of the layer. */
  experts: number;
  random: Random;
}

/**
 * A new router, initialised as PyTorch's Linear layers are: uniform in ±1/√(inputs of the layer). The caller disposes
 * the two variables.
 */
export function createRouter({ dIn, width, experts, random }: RouterSettings): TrainableRouter {
  const layer = (outputs: number, inputs: number) => {
    const bound = 1 / Math.sqrt(inputs);
    const values = Float32Array.from(
      { length: outputs * inputs },
      () => (2 * random.uniform() - 1) * bound,
    );
    return tf.tidy(() => tf.variable(tf.tensor2d(values, [outputs, inputs])));
  };
  return { hidden: layer(width, dIn), output: layer(experts, width) };
}
