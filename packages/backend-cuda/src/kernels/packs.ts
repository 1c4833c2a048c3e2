/** Threads of a block of the elementwise kernels. */
export const PACK_THREADS = 256;

/** Packs that each of those threads handles. */
const PACKS_PER_THREAD = 2;

/**
 * Blocks of an elementwise kernel over `items` elements in packs of `lanes` (16 bytes where types allow it). What is left
 * beyond whole packs is done by the first block.
 */
export function packBlocks(items: number, lanes = 4): number {
  if (items === 0) return 0;
  return Math.max(1, Math.ceil(Math.floor(items / lanes) / (PACK_THREADS * PACKS_PER_THREAD)));
}
