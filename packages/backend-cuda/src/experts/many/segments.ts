import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { withScratch } from '../../kernels/run.js';
import { ACTIVATIONS, type ExpertsCall } from '../call.js';
import { matrixMap } from '../matrices.js';
import type { ManyCall } from './many-call.js';
import { type ManyPlan, mostTiles } from './plan.js';
import { groupsOf, segmentsOf } from './units.js';

type Type = 'bf16' | 'f16';
const each = (
  make: (type: Type) => Kernel,
): Record<ExpertsCall['storage'], Kernel | undefined> => ({
  bfloat16: make('bf16'),
  float16: make('f16'),
  float32: undefined,
  int8: undefined,
});
const countKernels = each((type) =>
  kernel(
    'experts-segments.sm90a',
    `experts_segments_count_${type}`,
    'p p i i i i i i i i i i i i p p p p p p p p i',
  ),
);
const placeKernels = each((type) =>
  kernel(
    'experts-segments.sm90a',
    `experts_segments_place_${type}`,
    'i i i i i i i i i i i p p p p p p p p p i',
  ),
);
const combineKernels = each((type) =>
  kernel('experts-segments.sm90a', `experts_segments_combine_${type}`, 'p i i i i i i i i p p p i'),
);
const manyKernels = Object.fromEntries(
  (['128', '64', 'gated'] as const).map((name) => [
    name,
    each((type) =>
      kernel(
        'experts-many.sm90a',
        `experts_many_${type}_${name}`,
        `i*32 i*32 i*32 ${'p '.repeat(10)}${'i '.repeat(11)}`,
      ),
    ),
  ]),
) as Record<'128' | '64' | 'gated', ReturnType<typeof each>>;

const THREADS = 256;
const WARPS = THREADS / 32;
const MANY_THREADS = 384;
/** Rings of x's and of the weights' tiles, barriers, tiles taken, what is looked up of one; as experts-many.sm90a.cu has them. */
const MANY_SHARED = 2 * 4 * 8192 + 5 * 32768 + 304 + 32 + 2592;
/** Counters that one block adds up, and parts of the batch whose rows are counted apart, at most. */
const MOST_COUNTS = 8192;
const MOST_CHUNKS = 16;
/** Bins of the table of tiles; as experts-segments.sm90a.cu has them. */
const BINS = 36;
const ADD = 0;
const STORE = 1;

/** The expert op tile by tile of rows that run the same units: writes to `call.out`, in the storage's 16 bits. */
export function runSegments(
  backend: CudaBackend,
  call: ManyCall,
  plan: Extract<ManyPlan, { kind: 'segments' }>,
): void {
  const { rows, dOut, experts, expertSize, storage, gate, selection } = call;
  const { units, isPaired, isAdded, hasOnlyKinds } = plan;
  const { multiprocessors } = backend.device;
  const words = Math.ceil(experts / 32);
  const groups = groupsOf(units, isPaired);
  // Only segments of rows are kinds of their own, whose rows are not counted by chunks.
  const only = hasOnlyKinds ? groups : 0;
  const kinds = groups + only;
  const segments = segmentsOf(units, isPaired);
  const many = manyKernels[gate !== 0 ? 'gated' : units.width === 128 ? '128' : '64'][storage];
  const count = countKernels[storage];
  const place = placeKernels[storage];
  const combine = combineKernels[storage];
  if (!many || !count || !place || !combine) return;

  // Blocks that count and place rows, and the parts of the batch that they count apart.
  const blocks = Math.min(Math.ceil(rows / THREADS), multiprocessors * 4);
  const chunks = Math.max(
    1,
    Math.min(MOST_CHUNKS, Math.floor((MOST_COUNTS - only) / groups), blocks),
  );
  // Blocks beyond those, in either kernel, that fill half of the output with the bias; where some rows need none, this is
  // known to the second.
  const filling = isAdded ? Math.min(Math.ceil(rows / 2 / WARPS) + 1, multiprocessors * 4) : 0;
  const cut = [experts, expertSize, units.perUnit, units.parts, units.width, isPaired ? 1 : 0];
  const filled = [isAdded ? call.out : 0, call.downBias];
  const tiles = mostTiles(rows, units, isPaired, hasOnlyKinds) * 16;
  // int32: counts and one of blocks, begins, offsets, bins, what is known of the tiles.
  const counts = groups * chunks + only;
  const tables = 2 * counts + 2 + blocks * kinds + BINS + 2;
  const others = isAdded ? 16 : rows * (segments - 1) * dOut * 2 + 16;
  const tileTables = tiles + dOut * 2;
  withScratch(
    backend,
    tileTables + (tables + 2 * rows * segments + rows * words) * 4,
    (tileTable) =>
      withScratch(backend, others, (apart) => {
        const bias16 = tileTable + tiles;
        const counters = tileTable + tileTables;
        const begins = counters + (counts + 1) * 4;
        const offsets = begins + (counts + 1) * 4;
        const bins = offsets + blocks * kinds * 4;
        const header = bins + BINS * 4;
        const codes = header + 8;
        const list = codes + rows * segments * 4;
        const mask = list + rows * segments * 4;
        const shares = [blocks, chunks, segments];
        backend.memset(counters, (counts + 1) * 4);
        const isProgrammatic = true;
        backend.launch(
          count,
          blocks + (hasOnlyKinds ? 0 : filling),
          THREADS,
          [
            backend.pointer(selection),
            mask,
            rows,
            words,
            ...cut,
            hasOnlyKinds ? 1 : 0,
            ...shares,
            codes,
            counters,
            offsets,
            begins,
            bins,
            header,
            ...filled,
            dOut,
          ],
          (97 + counts) * 4,
        );
        backend.launch(
          place,
          blocks + filling,
          THREADS,
          [
            rows,
            ...cut,
            hasOnlyKinds ? 1 : 0,
            ...shares,
            codes,
            offsets,
            begins,
            bins,
            list,
            tileTable,
            ...filled,
            bias16,
            dOut,
          ],
          kinds * 4,
          { isProgrammatic },
        );
        const map = (matrix: number, length: number, lines: number) =>
          matrixMap(backend, matrix, length, call.hidden, lines);
        const up = map(call.up, call.pitch, units.width);
        backend.launch(
          many,
          multiprocessors,
          MANY_THREADS,
          [
            up,
            gate === 0 ? up : map(gate, call.pitch, units.width),
            map(call.down, dOut, 64),
            call.x16,
            tileTable,
            list,
            header,
            mask,
            call.upBias,
            call.gateBias,
            bias16,
            call.out,
            apart,
            rows,
            call.pitch,
            call.pitch,
            dOut,
            words,
            experts,
            expertSize,
            units.perUnit,
            units.parts,
            ACTIVATIONS.indexOf(call.activation),
            isAdded ? ADD : STORE,
          ],
          MANY_SHARED,
          { isProgrammatic },
        );
        if (!isAdded) {
          const args = [mask, rows, words, ...cut, apart, call.out, call.downBias, dOut];
          const grid = backend.blocks((rows * dOut) / 8, THREADS);
          backend.launch(combine, grid, THREADS, args, 0, { isProgrammatic });
        }
      }),
  );
}
