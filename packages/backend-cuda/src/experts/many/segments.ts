import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { withScratch } from '../../kernels/run.js';
import { ACTIVATIONS, type ExpertsCall } from '../call.js';
import { matrixMap } from '../matrices.js';
import { withZeros } from '../zeros.js';
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
const groupKernels = each((type) =>
  kernel(
    'experts-segments.sm90a',
    `experts_segments_${type}`,
    'p p i i i i i i i i i i i p p p p p p p p p p i i',
  ),
);
const combineKernels = each((type) =>
  kernel('experts-segments.sm90a', `experts_segments_combine_${type}`, 'p i i i i i i i i p p p i'),
);
/** The kernels of a module, whose names end in `suffix`. */
const manyKernels = (module: string, suffix: string) =>
  Object.fromEntries(
    (['128', '64', 'gated'] as const).map((name) => [
      name,
      each((type) =>
        kernel(
          module,
          `experts_many_${type}_${name}${suffix}`,
          `i*32 i*32 i*32 ${'p '.repeat(10)}${'i '.repeat(11)}`,
        ),
      ),
    ]),
  ) as Record<'128' | '64' | 'gated', ReturnType<typeof each>>;
const storedKernels = manyKernels('experts-many.sm90a', '');
const interleavedKernels = manyKernels('experts-many-interleaved.sm90a', '_interleaved');

const THREADS = 256;
const MANY_THREADS = 384;
/** Rings of x's and of the weights' tiles, barriers, tiles taken, what is looked up of one; as experts-many.sm90a.cu has them. */
const MANY_SHARED = 2 * 4 * 8192 + 5 * 32768 + 352 + 32 + 2592;
/** Kinds that have a counter for each of so many parts of the batch, at most. */
const CHUNKS = [
  [16, 1024],
  [8, 2048],
  [4, Number.POSITIVE_INFINITY],
] as const;
/** Bins of the table of tiles, a block each; what the table begins with; bytes of rows that a block fills at once. */
const BINS = 36;
const HEADER = 2;
const IMAGE = 16_384;
/** Columns of down that change places with one another where it is interleaved. */
const INTERLEAVED = 32;
/** Blocks on a multiprocessor that count and place rows, all of which have to have room, and that fill. */
const GROUPING = 3;
const FILLING = 4;
// Stages of a launch, as experts-segments.sm90a.cu numbers them.
const COUNT = 1;
const PLACE = 2;
const ADD = 0;
const STORE = 1;

/** The expert op tile by tile of rows that run the same units: writes to `call.out`, in the storage's 16 bits. */
export function runSegments(
  backend: CudaBackend,
  call: ManyCall,
  plan: Extract<ManyPlan, { kind: 'segments' }>,
): void {
  const { rows, dOut, experts, expertSize, storage, gate, selection } = call;
  const { units, pools, isAdded, hasOnlyKinds, isInterleaved } = plan;
  const { isEmulated, multiprocessors } = backend.device;
  const words = Math.ceil(experts / 32);
  const groups = groupsOf(units, pools);
  // Only segments of rows are kinds of their own, whose rows are not counted by chunks.
  const only = hasOnlyKinds ? groups : 0;
  const kinds = groups + only;
  const segments = segmentsOf(units, pools);
  const kernels = isInterleaved ? interleavedKernels : storedKernels;
  const many = kernels[gate !== 0 ? 'gated' : units.width === 128 ? '128' : '64'][storage];
  const group = groupKernels[storage];
  const combine = combineKernels[storage];
  if (!many || !group || !combine) return;

  // Blocks that count and place rows, and the parts of the batch that they count apart.
  const blocks = Math.min(Math.ceil(rows / THREADS), multiprocessors * GROUPING);
  const chunks = CHUNKS.find(([, most]) => groups <= most)?.[0] ?? 4;
  // Blocks beyond those, and those of the bins, that fill the output with the bias, and interleave down. Where some rows
  // need no bias, the blocks that place rows give it to the others.
  const imageRows = Math.max(1, Math.floor(IMAGE / (dOut * 2)));
  const isFilled = isAdded && !hasOnlyKinds;
  const interleaving = isInterleaved ? multiprocessors : 0;
  const filling = isFilled
    ? Math.min(Math.max(Math.ceil(rows / imageRows), interleaving), multiprocessors * FILLING)
    : interleaving;
  const shared = Math.max((THREADS / 32 + kinds + 1) * 4, isFilled ? imageRows * dOut * 2 : 0);
  const interleavedWidth = Math.ceil(dOut / INTERLEAVED) * INTERLEAVED;
  const cut = [experts, expertSize, units.perUnit, units.parts, units.width, pools];
  const tiles = mostTiles(rows, units, pools, hasOnlyKinds) * 16;
  // int32: offsets, what is known of the tiles, rows by kind, masks.
  const tables = blocks * kinds + HEADER + rows * segments + rows * words;
  const counts = (groups * chunks + only + 2) * 4;
  const interleavedBytes = isInterleaved ? call.hidden * interleavedWidth * 2 : 0;
  const others = isAdded ? 0 : rows * (segments - 1) * dOut * 2;
  const tileTables = tiles + dOut * 2;
  const isProgrammatic = true;
  withZeros(backend, counts, (counters) =>
    withScratch(backend, tileTables + tables * 4, (tileTable) =>
      withScratch(backend, interleavedBytes + others + 16, (interleaved) => {
        const apart = interleaved + interleavedBytes;
        const bias16 = tileTable + tiles;
        const offsets = tileTable + tileTables;
        const header = offsets + blocks * kinds * 4;
        const list = header + HEADER * 4;
        const mask = list + rows * segments * 4;
        for (const stages of isEmulated ? [COUNT, PLACE] : [COUNT | PLACE]) {
          backend.launch(
            group,
            blocks + BINS + filling,
            THREADS,
            [
              backend.pointer(selection),
              mask,
              rows,
              words,
              ...cut,
              hasOnlyKinds ? 1 : 0,
              blocks,
              chunks,
              counters,
              offsets,
              list,
              tileTable,
              header,
              call.downBias,
              bias16,
              isAdded ? call.out : 0,
              call.down,
              isInterleaved ? interleaved : 0,
              dOut,
              stages,
            ],
            shared,
            { isProgrammatic },
          );
        }
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
            isInterleaved ? map(interleaved, interleavedWidth, 64) : map(call.down, dOut, 64),
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
    ),
  );
}
