/**
 * The summed weight between each node of a graph and each part of its partition, [h, k]: for a Gram matrix, the inner
 * products of every row with the sums of the clusters' rows.
 *
 * @param weights [h, h].
 * @param partOf The part of each node, [h], below k.
 */
export function partLinks(weights: Float32Array, partOf: Uint32Array, k: number): Float64Array {
  const h = partOf.length;
  const links = new Float64Array(h * k);
  for (let n = 0; n < h; n++) {
    for (let m = 0; m < h; m++) {
      const link = n * k + (partOf[m] as number);
      links[link] = (links[link] as number) + (weights[n * h + m] as number);
    }
  }
  return links;
}
