import type { Random } from '@d2dmoe/core';

/**
 * The order in which training sees its samples: a fresh permutation each epoch, a function of step alone.
 *
 * @returns for a step, the indices of its `batchSize` samples (all samples where there are fewer)
 */
export function shuffledOrder(
  count: number,
  batchSize: number,
  random: Random,
): (step: number) => Uint32Array {
  return cachedEpochs(count, batchSize, (epoch) =>
    random.fork(`epoch ${epoch}`).permutation(count),
  );
}

/**
 * Like {@link shuffledOrder}, but samples of similar length share a batch, so that little of it is padding: within
 * each run of 32 shuffled batches samples are sorted by length, then the batches are shuffled.
 */
export function lengthGroupedOrder(
  lengths: ArrayLike<number>,
  batchSize: number,
  random: Random,
): (step: number) => Uint32Array {
  const count = lengths.length;
  return cachedEpochs(count, batchSize, (epoch) => {
    const generator = random.fork(`epoch ${epoch}`);
    const size = Math.min(batchSize, count);
    const batches = Math.floor(count / size);
    // What does not fill a batch is left out before sorting, or it would always be the longest.
    const order = generator.permutation(count).subarray(0, batches * size);
    const run = size * 32;
    for (let start = 0; start < order.length; start += run) {
      order
        .subarray(start, start + run)
        .sort((a, b) => (lengths[a] as number) - (lengths[b] as number));
    }
    const shuffled = new Uint32Array(order.length);
    for (const [to, from] of generator.permutation(batches).entries()) {
      shuffled.set(order.subarray(from * size, (from + 1) * size), to * size);
    }
    return shuffled;
  });
}

function cachedEpochs(
  count: number,
  batchSize: number,
  orderOf: (epoch: number) => Uint32Array,
): (step: number) => Uint32Array {
  const size = Math.min(batchSize, count);
  const perEpoch = Math.floor(count / size);
  let epoch = -1;
  let order: Uint32Array = new Uint32Array();
  return (step) => {
    const wanted = Math.floor(step / perEpoch);
    if (wanted !== epoch) {
      epoch = wanted;
      order = orderOf(epoch);
    }
    const start = (step % perEpoch) * size;
    return order.subarray(start, start + size);
  };
}

/** At most `limit` of `count` indices, drawn by seed; all of them in order where there is no limit. */
export function sample(count: number, limit: number | undefined, random: Random): Uint32Array {
  if (limit === undefined || limit >= count)
    return Uint32Array.from({ length: count }, (_, i) => i);
  return random.permutation(count).slice(0, limit).sort();
}
