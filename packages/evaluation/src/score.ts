import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Model } from '@d2dmoe/models';

/** How well a model does on a data set. */
export interface Score {
  /** `accuracy` of a classifier, in [0, 1]; `loss` of a language model, the mean cross-entropy in nats per token. */
  name: 'accuracy' | 'loss';
  /** In the unit that `name` says. */
  value: number;
  /** True of accuracy, false of loss. */
  higherIsBetter: boolean;
}

/** Label of a position that is not scored. */
export const NOT_SCORED = -1;

/** Logits are scored in runs of at most this many, so that a large vocabulary does not double a batch's memory. */
const LOGITS_AT_ONCE = 1 << 22;

/**
 * Adds up a score over batches. `measure` reduces a batch's logits on the device to a few numbers per scored row;
 * `add` takes those numbers once they have been read back and adds them up in float64.
 */
export class ScoreSum {
  readonly #isLoss: boolean;
  #crossEntropy = 0;
  #correct = 0;
  #count = 0;

  constructor(task: Model['task']) {
    this.#isLoss = task === 'text-generation';
  }

  /**
   * The figures of the scored rows, on the device: each one's cross-entropy in nats, and for a classifier after all of
   * those 1 for each row whose greatest logit is the label's and 0 for each other one.
   *
   * @param logits [B, classes], or [B, T, vocabulary] of a language model.
   * @param labels One per row, {@link NOT_SCORED} where a row does not count.
   * @returns [scored rows], for a classifier [2 · scored rows]; the caller disposes it.
   * @throws D2DMoEError `EVALUATION_LABELS` where their number is not that of the rows or one is no class.
   */
  measure(logits: tf.Tensor, labels: Int32Array): tf.Tensor1D {
    const classes = logits.shape.at(-1) as number;
    const rows = scoredRows(labels, logits.size / classes, classes);
    const chunk = Math.max(1, Math.floor(LOGITS_AT_ONCE / classes));
    return tf.tidy(() => {
      const flat = tf.reshape<tf.Rank.R2>(logits, [-1, classes]);
      const losses: tf.Tensor1D[] = [tf.zeros([0])];
      const hits: tf.Tensor1D[] = [];
      for (let start = 0; start < rows.length; start += chunk) {
        const some = rows.subarray(start, start + chunk);
        const someLabels = some.map((row) => labels[row] as number);
        const [loss, hit] = tf.tidy(() => {
          const selected = tf.gather(flat, tf.tensor1d(some, 'int32'));
          const loss = crossEntropy(selected, someLabels);
          return this.#isLoss ? [loss] : [loss, correct(selected, someLabels)];
        }) as [tf.Tensor1D, tf.Tensor1D?];
        losses.push(loss);
        if (hit) hits.push(hit);
      }
      return tf.concat1d([...losses, ...hits]);
    });
  }

  /** @param figures What {@link measure} gave, read back. */
  add(figures: ArrayLike<number>): void {
    const rows = this.#isLoss ? figures.length : figures.length / 2;
    for (let row = 0; row < rows; row++) {
      this.#crossEntropy += figures[row] as number;
      if (!this.#isLoss) this.#correct += figures[rows + row] as number;
    }
    this.#count += rows;
  }

  /** Mean cross-entropy in nats per scored row; where accuracy stays the same it still tells better from worse. */
  loss(): number {
    return this.#crossEntropy / this.#count;
  }

  /** @throws D2DMoEError `EVALUATION_EMPTY` where no row was scored. */
  score(): Score {
    return this.#isLoss
      ? meanScore('loss', this.#crossEntropy, this.#count)
      : meanScore('accuracy', this.#correct, this.#count);
  }
}

/** @throws D2DMoEError `EVALUATION_EMPTY` where no row was scored. */
export function meanScore(name: Score['name'], sum: number, count: number): Score {
  if (count === 0) {
    throw new D2DMoEError('EVALUATION_EMPTY', 'The evaluation data hold no scored label.');
  }
  return { name, value: sum / count, higherIsBetter: name === 'accuracy' };
}

/**
 * Numbers of the rows that count, after checking every label.
 *
 * @throws D2DMoEError `EVALUATION_LABELS`
 */
export function scoredRows(labels: Int32Array, rows: number, classes: number): Int32Array {
  if (labels.length !== rows) {
    throw new D2DMoEError(
      'EVALUATION_LABELS',
      `A batch has ${labels.length} labels for ${rows} rows of logits; there must be one for each.`,
    );
  }
  const scored: number[] = [];
  labels.forEach((label, row) => {
    if (label === NOT_SCORED) return;
    if (label < 0 || label >= classes) {
      throw new D2DMoEError(
        'EVALUATION_LABELS',
        `Label ${label} in row ${row} of a batch is outside the model's ${classes} classes, 0 to ${classes - 1}.`,
      );
    }
    scored.push(row);
  });
  return Int32Array.from(scored);
}

/** −log softmax of the label, by the log-sum-exp of logits shifted by their greatest. */
function crossEntropy(logits: tf.Tensor2D, labels: Int32Array): tf.Tensor1D {
  const classes = logits.shape[1];
  const shifted = tf.sub(logits, tf.max(logits, 1, true));
  const logSum: tf.Tensor1D = tf.log(tf.sum(tf.exp(shifted), 1));
  const positions = labels.map((label, row) => row * classes + label);
  const picked: tf.Tensor1D = tf.gather(tf.reshape(shifted, [-1]), tf.tensor1d(positions, 'int32'));
  return tf.sub(logSum, picked);
}

function correct(logits: tf.Tensor2D, labels: Int32Array): tf.Tensor1D {
  return tf.cast(tf.equal(tf.argMax(logits, 1), tf.tensor1d(labels, 'int32')), 'float32');
}
