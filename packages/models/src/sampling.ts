import { D2DMoEError, type Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';

/** How a token is chosen from a model's logits; names and defaults as in transformers' GenerationConfig. */
export interface SamplingOptions {
  /** Draw from the distribution instead of taking the likeliest token; default false. */
  doSample?: boolean;
  /** With `doSample`: the logits are divided by it; greater than 0, default 1. */
  temperature?: number;
  /** With `doSample`: only the so many likeliest tokens are drawn from; 0 for all, default 50. */
  topK?: number;
  /**
   * With `doSample`: only the smallest set of likeliest tokens whose probabilities sum to at least this is drawn from
   * (nucleus sampling, Holtzman et al. 2020); greater than 0 and at most 1, default 1.
   */
  topP?: number;
  /**
   * Positive logits of tokens that have occurred, in the prompt too, are divided by it and negative ones multiplied
   * (Keskar et al. 2019); greater than 0, default 1.
   */
  repetitionPenalty?: number;
  /** What `doSample` draws with. */
  random?: Random;
}

/**
 * Checks the options against each other and against their ranges.
 *
 * @throws D2DMoEError `GENERATION_INVALID`
 */
export function checkSampling(options: SamplingOptions): void {
  const { doSample = false, temperature = 1, topK = 50, topP = 1, repetitionPenalty = 1 } = options;
  // Negated, so that NaN is refused too.
  if (!(temperature > 0 && temperature < Infinity)) {
    throw invalid('temperature', 'a number greater than 0', temperature);
  }
  if (!(Number.isInteger(topK) && topK >= 0)) {
    throw invalid('topK', 'a whole number, 0 for all tokens', topK);
  }
  if (!(topP > 0 && topP <= 1)) {
    throw invalid('topP', 'a number greater than 0 and at most 1', topP);
  }
  if (!(repetitionPenalty > 0 && repetitionPenalty < Infinity)) {
    throw invalid('repetitionPenalty', 'a number greater than 0', repetitionPenalty);
  }
  if (doSample && options.random === undefined) {
    throw new D2DMoEError('GENERATION_INVALID', 'doSample needs a Random to draw with.');
  }
  for (const name of ['temperature', 'topK', 'topP'] as const) {
    if (!doSample && options[name] !== undefined) {
      throw new D2DMoEError(
        'GENERATION_INVALID',
        `${name} has no effect on greedy generation: set doSample too, or leave it out.`,
      );
    }
  }
}

function invalid(name: string, expected: string, value: number): D2DMoEError {
  return new D2DMoEError('GENERATION_INVALID', `${name} must be ${expected}, not ${value}.`);
}

/**
 * Chooses a token for each row, on the device. In transformers' order: repetition penalty, temperature, topK, topP.
 *
 * @param logits [B, vocabulary]
 * @param sequences The ids of each row so far.
 * @returns int32 [B]
 */
export function chooseTokens(
  logits: tf.Tensor2D,
  sequences: readonly (readonly number[])[],
  options: SamplingOptions,
): tf.Tensor1D {
  const { doSample = false, repetitionPenalty = 1, random } = options;
  return tf.tidy(() => {
    const scores =
      repetitionPenalty === 1 ? logits : penalise(logits, sequences, repetitionPenalty);
    if (!doSample || random === undefined) return tf.argMax<tf.Tensor1D>(scores, 1);
    // 24 bits are what float32 holds below 1.
    const draws = sequences.map(() => Math.floor(random.uniform() * 2 ** 24) / 2 ** 24);
    return draw(scores, draws, options);
  });
}

function penalise(
  logits: tf.Tensor2D,
  sequences: readonly (readonly number[])[],
  penalty: number,
): tf.Tensor2D {
  const [rows, vocabulary] = logits.shape;
  const seen = new Uint8Array(rows * vocabulary);
  for (const [row, ids] of sequences.entries()) {
    for (const id of ids) seen[row * vocabulary + id] = 1;
  }
  const penalised = tf.where<tf.Tensor2D>(
    tf.less(logits, 0),
    tf.mul(logits, penalty),
    tf.div(logits, penalty),
  );
  return tf.where<tf.Tensor2D>(tf.tensor2d(seen, [rows, vocabulary], 'bool'), penalised, logits);
}

/** Inverse transform sampling: the first token whose cumulative probability exceeds the row's draw from [0, 1). */
function draw(scores: tf.Tensor2D, draws: number[], options: SamplingOptions): tf.Tensor1D {
  const { temperature = 1, topK = 50, topP = 1 } = options;
  const vocabulary = scores.shape[1];
  const tempered = tf.div<tf.Tensor2D>(scores, temperature);
  const kept = topK === 0 ? vocabulary : Math.min(topK, vocabulary);
  // Sorting the whole vocabulary costs more than a small model's step, and is of no use without topK and topP.
  const sorted = kept < vocabulary || topP < 1;
  const likeliest = sorted ? tf.topk(tempered, kept) : undefined;
  let probabilities = tf.softmax<tf.Tensor2D>(likeliest?.values ?? tempered);
  if (topP < 1) {
    const before = tf.cumsum(probabilities, 1, true);
    probabilities = tf.mul(probabilities, tf.cast(tf.less(before, topP), 'float32'));
  }
  const cumulative = tf.cumsum<tf.Tensor2D>(probabilities, 1);
  const total = tf.slice2d(cumulative, [0, kept - 1], [draws.length, 1]);
  const point = tf.mul(tf.tensor2d(draws, [draws.length, 1]), total);
  const place = tf.sum<tf.Tensor2D>(tf.cast(tf.lessEqual(cumulative, point), 'int32'), 1, true);
  if (likeliest === undefined) return tf.reshape(place, [draws.length]);
  const chosen = tf.cast(tf.equal(place, tf.range(0, kept, 1, 'int32')), 'int32');
  return tf.sum<tf.Tensor1D>(tf.mul(likeliest.indices, chosen), 1);
}
