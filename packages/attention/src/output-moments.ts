import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';

/** Mean and covariance of a projection's outputs over some tokens. */
export interface Moments {
  /** [dOut] */
  mean: Float64Array;
  /** [dOut, dOut], row-major. */
  covariance: Float64Array;
}

/** Gathers {@link Moments} batch by batch; the sums stay on the device until they are asked for. */
export class OutputMoments {
  #sums: { count: number; sum: tf.Tensor2D; squares: tf.Tensor2D } | undefined;

  /** Adds a batch of outputs [N, dOut]. */
  add(outputs: tf.Tensor2D): void {
    const before = this.#sums;
    const count = (before?.count ?? 0) + outputs.shape[0];
    const [sum, squares] = tf.tidy<[tf.Tensor2D, tf.Tensor2D]>(() => {
      const sum = tf.sum<tf.Tensor2D>(outputs, 0, true);
      const squares = tf.matMul<tf.Tensor2D>(outputs, outputs, true, false);
      return before ? [tf.add(before.sum, sum), tf.add(before.squares, squares)] : [sum, squares];
    });
    this.#sums = { count, sum: tf.keep(sum), squares: tf.keep(squares) };
    if (before) tf.dispose([before.sum, before.squares]);
  }

  /**
   * Mean and covariance over all rows so far, in float64; the sums are kept.
   *
   * @throws D2DMoEError `MOMENTS_EMPTY` where no token was added.
   */
  async read(): Promise<Moments> {
    if (!this.#sums || this.#sums.count === 0) {
      throw new D2DMoEError(
        'MOMENTS_EMPTY',
        'The moments of a projection have seen no token; add a batch of outputs first.',
      );
    }
    const { count, sum, squares } = this.#sums;
    const mean = Float64Array.from(await sum.data(), (value) => value / count);
    const width = mean.length;
    const covariance = Float64Array.from(
      await squares.data(),
      (value, i) =>
        value / count - (mean[Math.floor(i / width)] as number) * (mean[i % width] as number),
    );
    return { mean, covariance };
  }

  /** Frees the sums. */
  dispose(): void {
    if (this.#sums) tf.dispose([this.#sums.sum, this.#sums.squares]);
    this.#sums = undefined;
  }
}
