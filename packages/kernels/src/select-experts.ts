import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from './dispatch.js';
import { checkSelectionRule } from './selection-rule.js';
import type { SelectionRule } from './types.js';

/**
 * The tfjs kernel that a backend registers to select experts itself. Inputs: {@link SelectExpertsInputs}; attributes:
 * a {@link SelectionRule}, already checked, whose topK value may exceed the number of experts; output: a bool tensor
 * [N, n], in whatever form the backend's own DynamicKExperts kernel reads.
 */
export const SelectExperts = 'SelectExperts';

/** Inputs of the {@link SelectExperts} kernel. */
export type SelectExpertsInputs = {
  /** [N, n], at least 0. */
  predictedNorms: Tensor2D;
};

/**
 * Selects each token's experts from the router's predicted norms (dynamic-k selection of Szatkowski et al. 2024,
 * section 3.4, and two rules to compare it with). Runs the backend's {@link SelectExperts} kernel where there is one,
 * and is composed of tfjs ops elsewhere; nothing is read back to the host.
 *
 * At least one expert runs for every token: where no norm is above 0 the lowest-numbered one alone, except that a
 * threshold of 0 runs all. Ties go to the lower number. The gradient is zero, a selection being a constant.
 *
 * @param predictedNorms [N, n], finite and at least 0.
 * @returns bool [N, n]: whether expert i runs for token t.
 * @throws D2DMoEError `SELECTION_RULE_INVALID` if the rule's value is out of its range.
 */
export function selectExperts(predictedNorms: Tensor2D, rule: SelectionRule): Tensor2D {
  checkSelectionRule(rule);
  const select = tf.customGrad((norms) => ({
    value: runOrCompose(norms as Tensor2D, rule),
    gradFunc: () => tf.zeros(predictedNorms.shape),
  }));
  return select(predictedNorms);
}

function runOrCompose(predictedNorms: Tensor2D, rule: SelectionRule): Tensor2D {
  if (hasKernel(SelectExperts)) {
    const inputs: SelectExpertsInputs = { predictedNorms };
    return runKernel(SelectExperts, inputs, rule) as Tensor2D;
  }
  const [rows, experts] = predictedNorms.shape;
  if (rows === 0 || experts === 0) return tf.zeros([rows, experts], 'bool');
  if (rule.rule === 'threshold') return aboveThreshold(predictedNorms, rule.value);
  if (rule.rule === 'topK') return topK(predictedNorms, rule.value);
  return cumulativeShare(predictedNorms, rule.value);
}

function aboveThreshold(norms: Tensor2D, tau: number): Tensor2D {
  if (tau === 0) return tf.ones(norms.shape, 'bool');
  const greatest = tf.max<Tensor2D>(norms, 1, true);
  const positive = tf.greater(greatest, 0);
  const reached = tf.greaterEqual(norms, tf.mul(greatest, tau));
  // A row without a positive norm, which every expert would reach, keeps its first expert.
  const first = tf.equal(columns(norms), 0);
  return tf.logicalOr(
    tf.logicalAnd(reached, positive),
    tf.logicalAnd(first, tf.logicalNot(positive)),
  );
}

function topK(norms: Tensor2D, k: number): Tensor2D {
  const [, experts] = norms.shape;
  if (k >= experts) return tf.ones(norms.shape, 'bool');
  const least = tf.min<Tensor2D>(tf.topk(norms, k).values, 1, true);
  return greatest(norms, least, tf.scalar(k));
}

function cumulativeShare(norms: Tensor2D, share: number): Tensor2D {
  const [rows, experts] = norms.shape;
  const sorted = tf.topk(norms, experts).values;
  // The sum of all greater norms. Its last column and the last norm give the total, rounded just as the sums are, so
  // that a share of 1 stops exactly where nothing but zeros is left.
  const before = tf.cumsum(sorted, 1, true);
  const last = [0, experts - 1];
  const total = tf.add(tf.slice(before, last, [rows, 1]), tf.slice(sorted, last, [rows, 1]));
  const needed = tf.cast(tf.less(before, tf.mul(total, share)), 'float32');
  const count = tf.maximum(tf.sum<Tensor2D>(needed, 1, true), 1);
  const isLeast = tf.cast(tf.equal(columns(norms), tf.sub(count, 1)), 'float32');
  return greatest(norms, tf.sum<Tensor2D>(tf.mul(sorted, isLeast), 1, true), count);
}

/** The `count` greatest norms of each row, `least` being the least of these; ties go to the lower number. */
function greatest(norms: Tensor2D, least: Tensor2D, count: Tensor): Tensor2D {
  const above = tf.greater(norms, least);
  const tied = tf.equal(norms, least);
  const places = tf.sub(count, tf.sum<Tensor2D>(tf.cast(above, 'float32'), 1, true));
  const placeAmongTied = tf.cumsum(tf.cast(tied, 'float32'), 1);
  return tf.logicalOr(above, tf.logicalAnd(tied, tf.lessEqual(placeAmongTied, places)));
}

/** The column numbers of a matrix as one row, [1, n]. */
function columns(matrix: Tensor2D): Tensor2D {
  const [, count] = matrix.shape;
  return tf.reshape(tf.range(0, count), [1, count]);
}
