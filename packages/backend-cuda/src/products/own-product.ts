import { D2DMoEError } from '@d2dmoe/core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { hopperTakes, launchHopper, planHopper } from './hopper-product.js';
import { byLayout, layoutOf } from './layouts.js';
import { halfTypeOf } from '../tensor-data.js';
import { BYTES, type FullProduct, type ProductType } from './product.js';
import { type Split, splitSum } from './splits.js';

/** Greatest second and third extent of a grid; kernels loop over what is left of a batch. */
const MOST_BLOCKS = 65_535;

interface SimtTile {
  size: number;
  threads: number;
  kernel: Kernel;
}
const simtParameters = 'p p p p i i i i i l l l i i i';
const simt = (name: string, size: number, threads: number): SimtTile => ({
  size,
  threads,
  kernel: kernel('products', name, simtParameters),
});
const simtWide = simt('products_simt_f32_128', 128, 256);
const simtNarrow = simt('products_simt_f32_64', 64, 128);
const simtInt = simt('products_simt_i32_64', 64, 128);
const SIMT_DEPTH = 8;

const rowsKernel = kernel('products', 'products_rows_f32', 'p p p p i i l l l i i i');
const columnsKernel = kernel('products', 'products_columns_f32', 'p p p p i i l l l i i i');

const mma = (type: 'bf16' | 'f16' | 'tf32') =>
  byLayout((layout) =>
    kernel('products-mma', `products_mma_${type}_${layout}`, 'p p p p i i i l l l i i i i i i'),
  );
const mmaKernels = { bf16: mma('bf16'), fp16: mma('f16'), tf32: mma('tf32') };
const MMA_TILE = 128;
const MMA_STAGES = 4;
/** Bytes of the sum that one step covers. */
const MMA_STEP_BYTES = 64;

const reduceKernels: Record<ProductType, Kernel | undefined> = {
  float32: kernel('products', 'products_reduce_f32', 'p p p l i i'),
  bf16: kernel('products', 'products_reduce_bf16', 'p p p l i i'),
  fp16: kernel('products', 'products_reduce_f16', 'p p p l i i'),
  int32: undefined,
};

/** Which of our kernels does a product on a card. */
export function chooseOwn(
  product: FullProduct,
  computeCapability: readonly [number, number],
  isEmulated: boolean,
): 'simt' | 'rows' | 'columns' | 'mma' | 'hopper' {
  const { m, n, operands, transposeA, transposeB, tf32, k } = product;
  if (halfTypeOf(operands)) {
    // On the emulator that of older cards is tested so; the one for Hopper has tests of its own.
    return computeCapability[0] === 9 && !isEmulated && k > 0 && hopperTakes(product)
      ? 'hopper'
      : 'mma';
  }
  if (operands === 'int32') return 'simt';
  if (n === 1) return transposeA ? 'columns' : 'rows';
  if (m === 1) return transposeB ? 'rows' : 'columns';
  return tf32 ? 'mma' : 'simt';
}

/**
 * Enqueues a batch of products by our own kernels; k may be 0.
 *
 * @throws D2DMoEError CUDA_DTYPE for a pair of types that they do not have.
 */
export function ownProduct(backend: CudaBackend, product: FullProduct): void {
  const { operands, result } = product;
  const half = halfTypeOf(operands);
  if (result !== operands && !(half && result === 'float32')) {
    throw new D2DMoEError(
      'CUDA_DTYPE',
      `A product of ${operands} matrices gives ${half ? `${half} or float32` : operands}, not ${result}.`,
    );
  }
  const { computeCapability, isEmulated } = backend.device;
  const kind = chooseOwn(product, computeCapability, isEmulated);
  if (kind === 'hopper') hopperProduct(backend, product);
  else if (kind === 'mma') mmaProduct(backend, product);
  else if (kind === 'simt') simtProduct(backend, product);
  else vectorProduct(backend, product, kind);
}

/**
 * Calls `launch` with where results go: the product's own place, or room for the parts of a split sum, which are added
 * up afterwards.
 */
function withParts(
  backend: CudaBackend,
  product: FullProduct,
  splits: number,
  launch: (out: number) => void,
): void {
  if (splits === 1) {
    launch(product.out);
    return;
  }
  const count = product.batch * product.m * product.n;
  const parts = backend.scratch(splits * count * 4);
  try {
    launch(parts.pointer);
    const reduce = reduceKernels[product.result];
    if (reduce === undefined) throw new D2DMoEError('CUDA_DTYPE', 'int32 sums are not split.');
    backend.launch(reduce, backend.blocks(count), 256, [
      parts.pointer,
      product.out,
      product.bias ?? 0,
      count,
      product.n,
      splits,
    ]);
  } finally {
    parts.free();
  }
}

/** One part where the parts' results could not lie as the product's do. */
function splitOf(product: FullProduct, tiles: number, steps: number, slots: number): Split {
  return product.operands === 'int32' || product.strideOut !== product.m * product.n
    ? { splits: 1, perSplit: Math.max(1, steps) }
    : splitSum(tiles, Math.max(1, steps), slots);
}

/**
 * Enqueues a product by the kernel for Hopper.
 *
 * @param product One that {@link hopperTakes}, with k above 0.
 */
export function hopperProduct(backend: CudaBackend, product: FullProduct): void {
  const plan = planHopper(product, backend.device.multiprocessors);
  if (product.strideOut !== product.m * product.n) {
    plan.splits = 1;
    plan.perSplit = Math.ceil(product.k / 64);
  }
  withParts(backend, product, plan.splits, (out) => launchHopper(backend, product, plan, out));
}

function mmaProduct(backend: CudaBackend, product: FullProduct): void {
  const { a, b, m, n, k, batch, transposeA, transposeB, strideA, strideB, operands } = product;
  const size = BYTES[operands];
  const vector = 16 / size;
  const depth = MMA_STEP_BYTES / size;
  const tiles = Math.ceil(m / MMA_TILE) * Math.ceil(n / MMA_TILE);
  const slots = 2 * backend.device.multiprocessors;
  const { splits, perSplit } = splitOf(product, tiles * batch, Math.ceil(k / depth), slots);
  const isAligned = (pointer: number, line: number, stride: number) =>
    pointer % 16 === 0 && line % vector === 0 && (batch === 1 || stride % vector === 0);
  // What a tile takes in shared memory: lines along the sum, or across it, and their padding.
  const along = MMA_TILE * (depth + vector);
  const across = depth * (MMA_TILE + (size === 2 ? vector : 2 * vector));
  const elements = (transposeA ? across : along) + (transposeB ? along : across);
  withParts(backend, product, splits, (out) =>
    backend.launch(
      mmaKernels[halfTypeOf(operands) ?? 'tf32'][layoutOf(product)],
      [tiles, splits, Math.min(batch, MOST_BLOCKS)],
      256,
      [
        a,
        b,
        out,
        splits > 1 ? 0 : (product.bias ?? 0),
        m,
        n,
        k,
        strideA,
        strideB,
        product.strideOut,
        batch,
        splits,
        perSplit * depth,
        isAligned(a, transposeA ? m : k, strideA) ? 1 : 0,
        isAligned(b, transposeB ? k : n, strideB) ? 1 : 0,
        splits === 1 && halfTypeOf(product.result) ? 1 : 0,
      ],
      MMA_STAGES * elements * size,
    ),
  );
}

function simtProduct(backend: CudaBackend, product: FullProduct): void {
  const { m, n, k, batch, transposeA, transposeB } = product;
  const tilesOf = (size: number) => Math.ceil(m / size) * Math.ceil(n / size);
  const { multiprocessors } = backend.device;
  const isWide = tilesOf(128) * batch >= multiprocessors;
  const tile = product.operands === 'int32' ? simtInt : isWide ? simtWide : simtNarrow;
  const tiles = tilesOf(tile.size);
  const steps = Math.ceil(k / SIMT_DEPTH);
  const { splits, perSplit } = splitOf(product, tiles * batch, steps, 2 * multiprocessors);
  withParts(backend, product, splits, (out) =>
    backend.launch(tile.kernel, [tiles, splits, Math.min(batch, MOST_BLOCKS)], tile.threads, [
      product.a,
      product.b,
      out,
      splits > 1 ? 0 : (product.bias ?? 0),
      m,
      n,
      k,
      transposeA ? 1 : 0,
      transposeB ? 1 : 0,
      product.strideA,
      product.strideB,
      product.strideOut,
      batch,
      splits,
      perSplit * SIMT_DEPTH,
    ]),
  );
}

/** A matrix times a column (n = 1), or a row times a matrix (m = 1). */
function vectorProduct(backend: CudaBackend, product: FullProduct, kind: 'rows' | 'columns'): void {
  const { a, b, m, n, k, batch, strideA, strideB, strideOut, bias } = product;
  const isColumn = n === 1;
  const matrix = isColumn ? a : b;
  const vector = isColumn ? b : a;
  const strideMatrix = isColumn ? strideA : strideB;
  const strideVector = isColumn ? strideB : strideA;
  const count = isColumn ? m : n;
  // The bias is one value for a column, one for each element of a row.
  const biasStep = isColumn ? 0 : 1;
  if (kind === 'rows') {
    const isAligned = [matrix, vector, k * 4, strideMatrix * 4, strideVector * 4].every(
      (value) => value % 16 === 0,
    );
    backend.launch(rowsKernel, backend.blocks(count * batch * 32), 256, [
      matrix,
      vector,
      product.out,
      bias ?? 0,
      count,
      k,
      strideMatrix,
      strideVector,
      strideOut,
      batch,
      biasStep,
      isAligned ? 1 : 0,
    ]);
    return;
  }
  const blocks = Math.ceil(count / 32);
  const slots = 8 * backend.device.multiprocessors;
  const { splits, perSplit } = splitOf(product, blocks * batch, Math.ceil(k / 8), slots);
  withParts(backend, product, splits, (out) =>
    backend.launch(columnsKernel, [blocks, splits, Math.min(batch, MOST_BLOCKS)], 256, [
      matrix,
      vector,
      out,
      splits > 1 ? 0 : (bias ?? 0),
      count,
      k,
      strideMatrix,
      strideVector,
      strideOut,
      batch,
      perSplit * 8,
      biasStep,
    ]),
  );
}
