import type { Random } from '@d2dmoe/core';
import { type FeedForwardWeights, referenceActivate } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Moments } from './output-moments.js';
import { symmetricEigen } from './symmetric-eigen.js';

/** Two layers in a projection's place whose weights can be trained; usable wherever {@link FeedForwardWeights} are. */
export interface TrainableReplacement extends FeedForwardWeights {
  /** [hidden, dIn] */
  up: tf.Variable<tf.Rank.R2>;
  /** [hidden] */
  upBias: tf.Variable<tf.Rank.R1>;
  /** [hidden, dOut] */
  down: tf.Variable<tf.Rank.R2>;
  /** [dOut] */
  downBias: tf.Variable<tf.Rank.R1>;
  /** The only one that replacements have: it makes their activations sparse. */
  activation: 'relu';
}

/** What a replacement starts from. */
export interface ReplacementSettings {
  /** [dOut, dIn], the projection's matrix. */
  weight: tf.Tensor2D;
  /** [dOut] */
  bias?: tf.Tensor1D | undefined;
  /** Of the projection's outputs on the inputs that it will see. */
  moments: Moments;
  /** Hidden width, see `replacementWidth`. */
  hidden: number;
  /** Neurons per expert; divides the hidden width. */
  expertSize: number;
  /** Draws the rows of neurons beyond the output's width. */
  random: Random;
  /** How far, in standard deviations of its input, a neuron's threshold lies below the mean; default 4. */
  margin?: number;
}

/**
 * A new replacement of a projection y = weight·x + bias, whose consecutive neurons make experts. Neurons look along the
 * principal directions uᵢ of the outputs, those of most variance first, `relu(uᵢ·(y − mean) + margin·σᵢ)`, and write
 * along them with the slope that is best for a normal distribution. So the start is close to the projection's best
 * approximation of its rank: where few directions hold most of the variance, as they do in trained models, little is
 * left to learn.
 *
 * The last neuron of each expert is a constant 1 that takes the mean of the others' outputs away, so that an expert's
 * output is what a token deviates from the mean by: the norm of that tells what leaving the expert out would cost, and
 * the output bias holds the mean whatever runs. Where the outputs' variance is spread so widely that the directions
 * which the constants take the place of hold more than 1 % of it, and where experts have one neuron, there are none and
 * the output bias takes all the means away. Neurons beyond the output's width look along random rows and write nothing
 * yet.
 *
 * @returns Variables that the caller disposes.
 */
export async function createReplacement(
  settings: ReplacementSettings,
): Promise<TrainableReplacement> {
  const { weight, bias, moments, hidden, expertSize, random, margin = 4 } = settings;
  const [dOut, dIn] = weight.shape;
  const { values, vectors } = symmetricEigen(moments.covariance, dOut);
  const { mean: rectified, slope } = rectifiedNormal(margin);
  const matrix = await weight.data();
  const offset = (await bias?.data()) ?? new Float32Array(dOut);
  const up = new Float32Array(hidden * dIn);
  const upBias = new Float32Array(hidden);
  const down = new Float32Array(hidden * dOut);
  const downBias = Float32Array.from(moments.mean);
  const typical = Math.hypot(...matrix) / Math.sqrt(matrix.length);
  const centred = expertSize > 1 && costOfConstants(values, hidden, expertSize) <= dearestConstants;
  const isConstant = (neuron: number) => centred && neuron % expertSize === expertSize - 1;
  let direction = 0;
  for (let neuron = 0; neuron < hidden; neuron++) {
    const row = up.subarray(neuron * dIn, (neuron + 1) * dIn);
    if (isConstant(neuron)) {
      upBias[neuron] = 1;
      continue;
    }
    if (direction >= dOut) {
      for (let i = 0; i < dIn; i++) row[i] = typical * random.normal();
      continue;
    }
    const u = vectors.subarray(direction * dOut, (direction + 1) * dOut);
    const deviation = Math.sqrt(Math.max(0, values[direction] as number));
    // Where its constant is: the expert's last neuron, or the output bias.
    const constants = centred
      ? down.subarray((neuron - (neuron % expertSize) + expertSize - 1) * dOut).subarray(0, dOut)
      : downBias;
    let threshold = margin * deviation;
    for (const [o, component] of u.entries()) {
      for (let i = 0; i < dIn; i++) {
        row[i] = (row[i] as number) + component * (matrix[o * dIn + i] as number);
      }
      threshold += component * ((offset[o] as number) - (moments.mean[o] as number));
      down[neuron * dOut + o] = slope * component;
      constants[o] = (constants[o] as number) - slope * rectified * deviation * component;
    }
    upBias[neuron] = threshold;
    direction++;
  }
  const variable = <R extends tf.Rank>(numbers: Float32Array, shape: tf.ShapeMap[R]) =>
    tf.tidy(() => tf.variable(tf.tensor<R>(numbers, shape)));
  return {
    up: variable<tf.Rank.R2>(up, [hidden, dIn]),
    upBias: variable<tf.Rank.R1>(upBias, [hidden]),
    down: variable<tf.Rank.R2>(down, [hidden, dOut]),
    downBias: variable<tf.Rank.R1>(downBias, [dOut]),
    activation: 'relu',
  };
}

/** The share of the outputs' variance that centred experts may cost. */
const dearestConstants = 0.01;

/** The share of the variance in the directions that a constant neuron in each expert leaves no room for. */
function costOfConstants(variances: Float64Array, hidden: number, expertSize: number): number {
  const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
  const total = sum(variances);
  if (total <= 0) return 0;
  return sum(variances.subarray(hidden - hidden / expertSize, hidden)) / total;
}

/**
 * Of relu(Z + c), Z standard normal: its mean, and the slope of the best straight line from it back to Z, the
 * covariance with Z over the variance.
 */
function rectifiedNormal(c: number): { mean: number; slope: number } {
  const density = Math.exp((-c * c) / 2) / Math.sqrt(2 * Math.PI);
  // The exact GELU is c times the distribution function.
  const below = c === 0 ? 0.5 : referenceActivate(c, 'gelu') / c;
  const mean = density + c * below;
  const square = (1 + c * c) * below + c * density;
  return { mean, slope: below / (square - mean * mean) };
}
