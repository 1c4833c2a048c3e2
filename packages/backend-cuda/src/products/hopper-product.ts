import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { type HalfType, halfTypeOf } from '../tensor-data.js';
import { byLayout, type Layout, layoutOf } from './layouts.js';
import type { FullProduct } from './product.js';
import { type Split, splitSum } from './splits.js';
import { tensorMapsOf } from './tensor-map.js';

const THREADS = 384;
const TILE_ROWS = 128;
const DEPTH = 64;
/** A box across the sum is 64 elements long; one along it has a line for each row or column of the tile. */
const BOX = 64;

/** One width of tiles: its stages and its kernels by transposes, as `products.sm90a.cu` has them. */
interface Width {
  columns: 128 | 256;
  stages: number;
  kernels: Record<HalfType, Record<Layout, Kernel>>;
}

function width(columns: 128 | 256, stages: number): Width {
  const of = (type: string) =>
    byLayout((layout) =>
      kernel(
        'products.sm90a',
        `products_hopper_${type}_${columns}_${layout}`,
        'i*32 i*32 p p i i i l i i i i i i',
      ),
    );
  return { columns, stages, kernels: { bf16: of('bf16'), fp16: of('f16') } };
}

const wide = width(256, 4);
const narrow = width(128, 6);

/** Whether the copy engine can read the operands: 16-byte addresses and steps. */
export function hopperTakes(product: FullProduct): boolean {
  const { a, b, m, n, k, transposeA, transposeB, strideA, strideB, batch } = product;
  const lineA = transposeA ? m : k;
  const lineB = transposeB ? k : n;
  return (
    halfTypeOf(product.operands) !== undefined &&
    a % 16 === 0 &&
    b % 16 === 0 &&
    lineA % 8 === 0 &&
    lineB % 8 === 0 &&
    (batch === 1 || (strideA % 8 === 0 && strideB % 8 === 0))
  );
}

/** How {@link launchHopper} would do a product on a card of so many multiprocessors. */
export function planHopper(
  product: FullProduct,
  multiprocessors: number,
): Split & { columns: 128 | 256; tiles: number } {
  const { m, n, k, batch } = product;
  const tilesOf = (columns: number) => Math.ceil(m / TILE_ROWS) * Math.ceil(n / columns) * batch;
  // The wide tile reads less per operation; the narrow one serves where wide ones are too few for the card.
  const columns = n > 128 && tilesOf(256) >= multiprocessors ? 256 : 128;
  const tiles = tilesOf(columns);
  return { columns, tiles, ...splitSum(tiles, Math.ceil(k / DEPTH), multiprocessors) };
}

/**
 * Enqueues a product of 16-bit matrices on the tensor cores of sm_90.
 *
 * @param product One that {@link hopperTakes}.
 * @param out Where results go: the product's own, or float32 parts where the sum is split.
 */
export function launchHopper(
  backend: CudaBackend,
  product: FullProduct,
  plan: ReturnType<typeof planHopper>,
  out: number,
): void {
  const { m, n, k, batch, transposeA, transposeB, strideA, strideB } = product;
  const { splits, perSplit } = plan;
  const { columns, stages, kernels } = plan.columns === 256 ? wide : narrow;
  const maps = tensorMapsOf(backend);
  const map = (
    pointer: number,
    across: number,
    isAcross: boolean,
    stride: number,
    tile: number,
  ) => {
    const isOne = batch === 1 || stride === 0;
    return maps.encode({
      pointer,
      length: isAcross ? across : k,
      lines: isAcross ? k : across,
      matrices: isOne ? 1 : batch,
      stride: isOne ? across * k : stride,
      boxLength: BOX,
      boxLines: isAcross ? DEPTH : tile,
    });
  };
  const bytes = 1024 + stages * (TILE_ROWS + columns) * DEPTH * 2 + 16 * 1024 + stages * 16;
  backend.launch(
    kernels[halfTypeOf(product.operands) ?? 'bf16'][layoutOf(product)],
    Math.min(plan.tiles * splits, backend.device.multiprocessors),
    THREADS,
    [
      map(product.a, m, transposeA, strideA, TILE_ROWS),
      map(product.b, n, !transposeB, strideB, columns),
      out,
      splits > 1 ? 0 : (product.bias ?? 0),
      m,
      n,
      k,
      product.strideOut,
      batch,
      batch === 1 || strideA === 0 ? 0 : 1,
      batch === 1 || strideB === 0 ? 0 : 1,
      splits,
      perSplit,
      splits === 1 && halfTypeOf(product.result) ? 1 : 0,
    ],
    bytes,
  );
}
