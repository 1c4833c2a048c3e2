import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Site } from '@d2dmoe/models';

/**
 * Counts the (token, expert) pairs that are executed at each site, real tokens only. The counting stays on the device
 * until the whole batch has run: each site leaves one count per expert, which float32 holds exactly (a batch has
 * fewer than 2²⁴ tokens), and {@link add} sums those in float64.
 */
export class SelectionCounter {
  /** By site name: pairs executed so far. */
  readonly executed = new Map<string, number>();
  /** [N, 1] */
  #mask: tf.Tensor2D | undefined;
  #pending: { site: string; counts: tf.Tensor1D }[] = [];

  /** @param mask [N, 1], 1 for a real token and 0 for padding; must live until the batch has run. */
  startBatch(mask: tf.Tensor2D): void {
    this.#mask = mask;
  }

  /** Takes one site's selection, [N, n] of booleans. May be called inside a tidy. */
  readonly observe = ({ name }: Pick<Site, 'name'>, selection: tf.Tensor2D): void => {
    const mask = this.#mask as tf.Tensor2D;
    const [rows] = selection.shape;
    if (rows !== mask.size) {
      throw new D2DMoEError(
        'EVALUATION_SELECTION',
        `Site ${name} selected experts for ${rows} rows, but the batch has ${mask.size} positions.`,
      );
    }
    // Not a product with the mask, whose result a backend may round to 16 bits.
    const counts = tf.tidy(() =>
      tf.sum<tf.Tensor1D>(tf.mul(tf.cast(selection, 'float32'), mask), 0),
    );
    this.#pending.push({ site: name, counts: tf.keep(counts) });
  };

  /** What the batch's sites have left on the device, in the order in which {@link add} expects it back. */
  get pending(): readonly tf.Tensor1D[] {
    return this.#pending.map(({ counts }) => counts);
  }

  /** @param figures The {@link pending} tensors' values one after another. */
  add(figures: Float32Array): void {
    let start = 0;
    for (const { site, counts } of this.#pending) {
      const end = start + counts.size;
      const pairs = figures.subarray(start, end).reduce((sum, count) => sum + count, 0);
      this.executed.set(site, (this.executed.get(site) ?? 0) + pairs);
      start = end;
    }
  }

  /** Forgets the batch and frees what it left on the device. */
  endBatch(): void {
    tf.dispose(this.pending as tf.Tensor1D[]);
    this.#pending = [];
    this.#mask = undefined;
  }
}
