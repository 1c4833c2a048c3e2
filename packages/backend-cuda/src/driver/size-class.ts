/** Least size of a block, and what every address is a multiple of. */
const GRAIN = 256;

/**
 * The size that is allocated for a request: at most an eighth more than was asked for (or the next multiple of 256
 * bytes), so that few sizes exist and a freed block fits most later requests like it.
 */
export function sizeClass(bytes: number): number {
  if (bytes <= 8 * GRAIN) return Math.max(GRAIN, Math.ceil(bytes / GRAIN) * GRAIN);
  const power = bytes <= 0x40000000 ? 31 - Math.clz32(bytes - 1) : Math.floor(Math.log2(bytes - 1));
  const step = 2 ** (power - 3);
  return Math.ceil(bytes / step) * step;
}
