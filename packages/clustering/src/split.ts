/** The hidden neurons of one FFN, divided into experts of equal size. */
export interface Split {
  /**
   * The neurons' indices, [h], grouped by expert: expert i owns `order[i * expertSize]` up to, not including,
   * `order[(i + 1) * expertSize]`, in ascending order. Permuting the FFN's neurons by it makes experts contiguous.
   */
  order: Uint32Array;
  /** Number of experts, n. */
  experts: number;
  /** Neurons per expert, e; `experts * expertSize` is h. */
  expertSize: number;
  /** The figure that this kind of split optimises, where it optimises one; the function that made it says which. */
  objective?: number;
}

/**
 * Groups neurons by their expert.
 *
 * @param expertOf The expert of each neuron, [h]; every expert occurs `expertSize` times.
 */
export function splitFromAssignment(expertOf: Uint32Array, expertSize: number): Split {
  const experts = expertOf.length / expertSize;
  const next = Uint32Array.from({ length: experts }, (_, expert) => expert * expertSize);
  const order = new Uint32Array(expertOf.length);
  expertOf.forEach((expert, neuron) => {
    const place = next[expert] as number;
    order[place] = neuron;
    next[expert] = place + 1;
  });
  return { order, experts, expertSize };
}
