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
  /** Draws the weights. */
  random: Random;
}

/** Forecasts that start far above the norms push hidden units below 0 for every token, where no gradient reaches them. */
const outputScale = 0.1;

/**
 * A new router: uniform in ±1/√(inputs of the layer), as PyTorch's Linear layers start, the output layer in a tenth of
 * that. The caller disposes the two variables.
 */
export function createRouter({ dIn, width, experts, random }: RouterSettings): TrainableRouter {
  const layer = (outputs: number, inputs: number, scale: number) => {
    const bound = scale / Math.sqrt(inputs);
    const values = Float32Array.from(
      { length: outputs * inputs },
      () => (2 * random.uniform() - 1) * bound,
    );
    return tf.tidy(() => tf.variable(tf.tensor2d(values, [outputs, inputs])));
  };
  return { hidden: layer(width, dIn, 1), output: layer(experts, width, outputScale) };
}
