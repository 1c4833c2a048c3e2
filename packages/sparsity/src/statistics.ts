import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { tokenRows } from './regularizer.js';

/** How sparse a layer's activations are. All shares are of its activations, averaged over its tokens, in [0, 1]. */
export interface ActivationStatistics {
  /** Tokens counted. */
  tokens: number;
  /** Share of activations that are exactly 0. */
  zero: number;
  /** Share below a tenth of the greatest absolute activation of their token; zeros always are. */
  belowTenth: number;
  /** Likewise below a hundredth. */
  belowHundredth: number;
  /** Likewise below a thousandth. */
  belowThousandth: number;
}

/** Below every normal float32: a token without activity has its zeros below a share of its greatest, 0, too. */
const smallest = 2 ** -126;

/**
 * Accumulates one layer's {@link ActivationStatistics} over a data set. The sums stay on the device as five numbers,
 * so that adding a batch waits for nothing.
 */
export class SparsityStatistics {
  #totals: tf.Tensor1D | undefined;

  /**
   * Adds a batch of activations [..., neurons], in any layer width.
   *
   * @param mask One number per token: 1 counts, 0 (padding) does not.
   * @throws D2DMoEError `SPARSITY_SHAPE` where there is no token axis or the mask does not fit.
   */
  add(activations: tf.Tensor, { mask }: { mask?: tf.Tensor } = {}): void {
    const previous = this.#totals;
    this.#totals = tf.tidy(() => {
      const batch = batchTotals(activations, mask);
      return tf.keep(previous ? tf.add<tf.Tensor1D>(previous, batch) : batch);
    });
    previous?.dispose();
  }

  /**
   * The shares over all tokens so far; the sums are kept.
   *
   * @throws D2DMoEError `STATISTICS_EMPTY` where no token has been counted.
   */
  async result(): Promise<ActivationStatistics> {
    const [tokens = 0, ...sums] = this.#totals ? await this.#totals.data() : [];
    if (tokens === 0) {
      throw new D2DMoEError(
        'STATISTICS_EMPTY',
        'Activation statistics have seen no token; add activations with at least one unmasked token first.',
      );
    }
    const [zero, belowTenth, belowHundredth, belowThousandth] = sums.map((sum) => sum / tokens) as [
      number,
      number,
      number,
      number,
    ];
    return { tokens, zero, belowTenth, belowHundredth, belowThousandth };
  }

  /** Frees the sums; a following `add` starts afresh. */
  dispose(): void {
    this.#totals?.dispose();
    this.#totals = undefined;
  }
}

/** {@link SparsityStatistics} of a single tensor of activations [..., neurons]. */
export async function activationStatistics(
  activations: tf.Tensor,
  options: { mask?: tf.Tensor } = {},
): Promise<ActivationStatistics> {
  const statistics = new SparsityStatistics();
  statistics.add(activations, options);
  try {
    return await statistics.result();
  } finally {
    statistics.dispose();
  }
}

/** [5]: tokens, then the sums over tokens of their shares of zeros and below max/10, /100, /1000. */
function batchTotals(activations: tf.Tensor, mask: tf.Tensor | undefined): tf.Tensor1D {
  const { rows, counts } = tokenRows(activations, mask);
  const magnitudes = tf.abs(rows);
  const greatest = tf.max(magnitudes, 1, true);
  // Steps of differences: comparisons are a hundred times slower where tfjs's wasm backend broadcasts. Counting is done
  // within a token, where float32 is exact; a batch may have more than 2²⁴ activations.
  const positive = (x: tf.Tensor) => tf.mean(tf.step(x), 1, true);
  const below = (fraction: number) =>
    positive(tf.sub(tf.maximum(tf.mul(greatest, fraction), smallest), magnitudes));
  const shares = [tf.sub(1, positive(magnitudes)), below(0.1), below(0.01), below(0.001)];
  const columns = tf.concat([tf.onesLike(counts), ...shares], 1);
  return tf.sum<tf.Tensor1D>(tf.mul(columns, counts), 0);
}
