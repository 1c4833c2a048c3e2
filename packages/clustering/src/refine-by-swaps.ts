import { partLinks } from './part-links.js';

/**
 * Raises the weight inside the parts of a partitioned graph: takes node after node and swaps it with the node of
 * another part that gains most, until no swap of two nodes gains (pairwise exchange as in Kernighan and Lin 1970,
 * among any number of parts). The parts keep their sizes.
 *
 * @param weights Symmetric, [h, h]; the diagonal does not matter.
 * @param partOf The part of each node, [h], below k; changed in place.
 */
export function refineBySwaps(weights: Float32Array, partOf: Uint32Array, k: number): void {
  const h = partOf.length;
  const links = partLinks(weights, partOf, k);
  // What each node is linked to its own part by, itself left out.
  const home = new Float64Array(h);
  let heaviest = 0;
  for (let n = 0; n < h; n++) {
    home[n] = (links[n * k + (partOf[n] as number)] as number) - (weights[n * h + n] as number);
    for (let m = 0; m < n; m++) {
      heaviest = Math.max(heaviest, Math.abs(weights[n * h + m] as number));
    }
  }
  // A gain below this may be rounding, for the sake of which nodes could be swapped for ever.
  const leastGain = 1e-6 * heaviest;

  let unimproved = 0;
  for (let n = 0; unimproved < h; n = (n + 1) % h) {
    const from = partOf[n] as number;
    let partner = n;
    let most = leastGain + (home[n] as number);
    for (let m = 0; m < h; m++) {
      const to = partOf[m] as number;
      const gain =
        (links[n * k + to] as number) +
        (links[m * k + from] as number) -
        (home[m] as number) -
        2 * (weights[n * h + m] as number);
      if (gain > most && to !== from) {
        most = gain;
        partner = m;
      }
    }
    if (partner === n) {
      unimproved++;
      continue;
    }
    unimproved = 0;
    const to = partOf[partner] as number;
    partOf[n] = to;
    partOf[partner] = from;
    for (let m = 0; m < h; m++) {
      const shift = (weights[partner * h + m] as number) - (weights[n * h + m] as number);
      links[m * k + from] = (links[m * k + from] as number) + shift;
      links[m * k + to] = (links[m * k + to] as number) - shift;
      const part = partOf[m] as number;
      home[m] = (links[m * k + part] as number) - (weights[m * h + m] as number);
    }
  }
}
