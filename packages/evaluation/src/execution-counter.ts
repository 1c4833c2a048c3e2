import type { Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';

/**
 * Counts the (token, expert) pairs that are executed at each site over many passes without padding, such as the tokens
 * of a generated text. The sums stay on the device until they are asked for.
 */
export class ExecutionCounter {
  /** int32, exact up to 2³¹ − 1 pairs a site. */
  readonly #totals = new Map<string, tf.Tensor>();

  /** Takes one site's selection, [N, n] of booleans. May be called inside a tidy. */
  readonly observe = ({ name }: Pick<Site, 'name'>, selection: tf.Tensor2D): void => {
    const before = this.#totals.get(name);
    const total = tf.tidy(() => {
      const pairs = tf.sum(tf.cast(selection, 'int32'));
      return before === undefined ? pairs : tf.add(before, pairs);
    });
    this.#totals.set(name, tf.keep(total));
    before?.dispose();
  };

  /** By site name: pairs executed so far. */
  async read(): Promise<Map<string, number>> {
    const names = [...this.#totals.keys()];
    if (names.length === 0) return new Map();
    const stacked = tf.stack([...this.#totals.values()]);
    const counts = await stacked.data();
    stacked.dispose();
    return new Map(names.map((name, i) => [name, counts[i] as number]));
  }

  /** Frees the sums; counting starts again at 0. */
  dispose(): void {
    tf.dispose([...this.#totals.values()]);
    this.#totals.clear();
  }
}
