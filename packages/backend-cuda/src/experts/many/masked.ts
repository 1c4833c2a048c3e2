import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { withScratch } from '../../kernels/run.js';
import { ACTIVATIONS } from '../call.js';
import type { ManyCall } from './many-call.js';
import { selectionBits } from '../select.js';
import { matrixMap } from '../matrices.js';

const maskedKernel = (name: string): Kernel =>
  kernel(
    'experts-masked.sm90a',
    `experts_masked_${name}`,
    'i*32 i*32 i*32 i*32 p p p p i i i i i i',
  );
const kernels = {
  bfloat16: {
    up: maskedKernel('up_bf16'),
    gated: maskedKernel('gated_bf16'),
    down: maskedKernel('down_bf16'),
  },
  float16: {
    up: maskedKernel('up_f16'),
    gated: maskedKernel('gated_f16'),
    down: maskedKernel('down_f16'),
  },
};

const THREADS = 384;
const TILE_ROWS = 128;
/** Rows of a warp's results. */
const OUT_ROWS = 16;
/** Four stages, results, barriers, what is looked up of two tiles; as experts-masked.sm90a.cu has them. */
const SHARED = 1024 + 4 * 49152 + 8 * 2048 + 128 + 2 * 2560;
/** Most hidden activations in memory at once: rows beyond them are done in turns. */
const MOST_HIDDEN = 2 ** 29;

/** The expert op as a dense layer whose hidden activations are masked: writes to `call.out`, in the storage's 16 bits. */
export function runMasked(backend: CudaBackend, call: ManyCall): void {
  const { rows, dOut, hidden, expertSize, gate, pitch, storage } = call;
  const { multiprocessors } = backend.device;
  const words = Math.ceil(call.experts / 32);
  const { up, gated, down } = kernels[storage];
  const isGated = gate !== 0;
  const columns = isGated ? 128 : 256;
  const turn = Math.max(
    TILE_ROWS,
    Math.floor(Math.min(rows, MOST_HIDDEN / hidden) / TILE_ROWS) * TILE_ROWS,
  );
  // A tile reads the bytes of its own experts where they begin at 16 bytes in every row.
  const isReadAsBytes =
    call.experts % 16 === 0 && columns % expertSize === 0 && (columns / expertSize) % 16 === 0;
  const selection = backend.pointer(call.selection);
  const mask = isReadAsBytes ? undefined : selectionBits(backend, call.selection);
  withScratch(backend, Math.min(rows, turn) * hidden * 2, (activations) => {
    for (let first = 0; first < rows; first += turn) {
      const m = Math.min(turn, rows - first);
      const blocks = (width: number, tile: number) =>
        Math.min(Math.ceil(m / TILE_ROWS) * Math.ceil(width / tile), multiprocessors);
      const map = (matrix: number, length: number, lines: number, box: number) =>
        matrixMap(backend, matrix, length, lines, box);
      const weights = map(call.up, pitch, hidden, columns);
      backend.launch(
        isGated ? gated : up,
        blocks(hidden, columns),
        THREADS,
        [
          map(call.x16 + first * pitch * 2, pitch, m, TILE_ROWS),
          weights,
          isGated ? map(gate, pitch, hidden, columns) : weights,
          map(activations, hidden, m, OUT_ROWS),
          call.upBias,
          call.gateBias,
          isReadAsBytes ? selection + first * call.experts : 0,
          mask ? mask.pointer + first * words * 4 : 0,
          m,
          hidden,
          pitch,
          expertSize,
          words,
          ACTIVATIONS.indexOf(call.activation),
        ],
        SHARED,
        { isProgrammatic: true },
      );
      const matrix = map(call.down, dOut, hidden, 64);
      backend.launch(
        down,
        blocks(dOut, 256),
        THREADS,
        [
          map(activations, hidden, m, TILE_ROWS),
          matrix,
          matrix,
          map(call.out + first * dOut * 2, dOut, m, OUT_ROWS),
          call.downBias,
          0,
          0,
          0,
          m,
          dOut,
          hidden,
          0,
          0,
          0,
        ],
        SHARED,
        { isProgrammatic: true },
      );
    }
  });
  mask?.free();
}
