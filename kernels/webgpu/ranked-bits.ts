/** What {@link rankedBits} gives for a bit that is not set. */
export const NO_RANK = '0xffffffffu';

/**
 * Bits in workgroup memory, 0 at first, and how many are set before each: `setBit` by any thread, a barrier, then
 * `rankOf` by any, and `countBits` of the first words.
 */
export const rankedBits = (words: number) => `
var<workgroup> bitWords: array<atomic<u32>, ${words}>;
fn setBit(i: u32) {
  atomicOr(&bitWords[i / 32u], 1u << (i % 32u));
}
fn rankOf(i: u32) -> u32 {
  let bits = atomicLoad(&bitWords[i / 32u]);
  let bit = 1u << (i % 32u);
  if ((bits & bit) == 0u) {
    return ${NO_RANK};
  }
  return countBits(i / 32u) + countOneBits(bits & (bit - 1u));
}
fn countBits(words: u32) -> u32 {
  var count = 0u;
  for (var word = 0u; word < words; word++) {
    count += countOneBits(atomicLoad(&bitWords[word]));
  }
  return count;
}`;
