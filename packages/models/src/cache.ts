import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';

/** What a layer's attention reads: keys and values, [B, kvHeads, positions, headDim] each, keys already rotated. */
export interface KeysAndValues {
  /** [B, kvHeads, positions, headDim], rotated by position where the model does that. */
  keys: tf.Tensor;
  /** [B, kvHeads, positions, headDim] */
  values: tf.Tensor;
}

/**
 * The keys and values of the positions that a language model has seen, so that the next ones cost one position's pass
 * each. Start with an empty one and hand it to every `model.forward` of the sequence, whose batch then holds the new
 * positions alone. One cache belongs to one model, and is of no use after a forward pass that threw. It owns its
 * tensors until {@link KeyValueCache.dispose}.
 */
export class KeyValueCache {
  readonly #layers: KeysAndValues[] = [];

  /** Positions seen so far. */
  get length(): number {
    return this.#layers[0]?.keys.shape[2] ?? 0;
  }

  /** Sequences of the batch; undefined while the cache is empty. */
  get batch(): number | undefined {
    return this.#layers[0]?.keys.shape[0];
  }

  /**
   * Adds a layer's new positions, which a forward pass does.
   *
   * @param latest [B, kvHeads, new positions, headDim] each; they become the cache's own.
   * @returns all positions so far
   */
  append(layer: number, latest: KeysAndValues): KeysAndValues {
    const earlier = this.#layers[layer];
    const all =
      earlier === undefined
        ? latest
        : {
            keys: tf.concat([earlier.keys, latest.keys], 2),
            values: tf.concat([earlier.values, latest.values], 2),
          };
    this.#layers[layer] = { keys: tf.keep(all.keys), values: tf.keep(all.values) };
    if (earlier !== undefined) tf.dispose([earlier.keys, earlier.values]);
    return all;
  }

  /** Frees the tensors; the cache is empty again. */
  dispose(): void {
    for (const { keys, values } of this.#layers) tf.dispose([keys, values]);
    this.#layers.length = 0;
  }
}

/**
 * How many positions precede those of a batch of `batch` sequences.
 *
 * @throws D2DMoEError `INPUT_INVALID` if the cache holds another number of sequences
 */
export function cachedPositions(cache: KeyValueCache | undefined, batch: number): number {
  if (cache?.batch !== undefined && cache.batch !== batch) {
    throw new D2DMoEError(
      'INPUT_INVALID',
      `inputIds has ${batch} sequences, but the key/value cache holds ${cache.batch}.`,
    );
  }
  return cache?.length ?? 0;
}
