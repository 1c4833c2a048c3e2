import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { withScratch } from '../../kernels/run.js';
import { ACTIVATIONS, type ExpertsCall } from '../call.js';
import { matrixMap } from './matrices.js';
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
  kernel('experts-segments', `experts_segments_count_${type}`, 'p i i i i i i i i p p p p p p p i'),
);
const placeKernel = kernel(
  'experts-segments',
  'experts_segments_place_rows',
  'p i i i i i i i i p p p p p',
);
const combineKernels = each((type) =>
  kernel('experts-segments', `experts_segments_combine_${type}`, 'p i i i i i i i i p p p i'),
);
const manyKernels = Object.fromEntries(
  (['128', '64', 'gated'] as const).map((name) => [
    name,
    each((type) =>
      kernel(
        'experts-many.sm90a',
        `experts_many_${type}_${name}`,
        `i*32 i*32 i*32 ${'p '.repeat(9)}${'i '.repeat(11)}`,
      ),
    ),
  ]),
) as Record<'128' | '64' | 'gated', ReturnType<typeof each>>;

const THREADS = 256;
const MANY_THREADS = 384;
/** Rings of x's and of the weights' tiles, barriers, what is looked up of two tiles; as experts-many.sm90a.cu has them. */
const MANY_SHARED = 1024 + 2 * 3 * 8192 + 5 * 32768 + 256 + 2 * 2576;
const ADD = 0;
const STORE = 1;

/** The expert op tile by tile of rows that run the same units: writes to `call.out`, in the storage's 16 bits. */
export function runSegments(
  backend: CudaBackend,
  call: ManyCall,
  plan: Extract<ManyPlan, { kind: 'segments' }>,
): void {
  const { rows, dOut, experts, expertSize, storage, gate, mask } = call;
  const { units, isPaired, isAdded } = plan;
  const { multiprocessors } = backend.device;
  const words = Math.ceil(experts / 32);
  const groups = groupsOf(units, isPaired);
  const segments = segmentsOf(units, isPaired);
  const many = manyKernels[gate !== 0 ? 'gated' : units.width === 128 ? '128' : '64'][storage];
  const count = countKernels[storage];
  const combine = combineKernels[storage];
  if (many === undefined || count === undefined || combine === undefined) return;

  const shape = [
    mask,
    rows,
    words,
    experts,
    expertSize,
    units.perUnit,
    units.parts,
    units.width,
    isPaired ? 1 : 0,
  ];
  // int32: counts and a counter of blocks, begins, cursors, tiles' begins, the number of tiles.
  const tables = 5 * groups + 3;
  const tiles = mostTiles(rows, units, isPaired) * 16;
  const others = isAdded ? 16 : rows * (segments - 1) * dOut * 2 + 16;
  withScratch(backend, tiles + (tables + rows * segments) * 4, (tileTable) =>
    withScratch(backend, others, (apart) => {
      const counts = tileTable + tiles;
      const begins = counts + (groups + 1) * 4;
      const cursors = begins + (groups + 1) * 4;
      const tileBegins = cursors + groups * 4;
      const header = tileBegins + 2 * groups * 4;
      const list = header + 4;
      backend.memset(counts, (groups + 1) * 4);
      const blocks = Math.min(Math.ceil(rows / THREADS), multiprocessors * 4);
      // With the output to fill, a block has eight rows at a time.
      const filling = Math.min(Math.ceil(rows / 8), multiprocessors * 8);
      backend.launch(
        count,
        isAdded ? Math.max(blocks, filling) : blocks,
        THREADS,
        [
          ...shape,
          counts,
          begins,
          cursors,
          tileBegins,
          header,
          isAdded ? call.out : 0,
          call.downBias,
          dOut,
        ],
        (32 + groups) * 4,
      );
      backend.launch(
        placeKernel,
        blocks,
        THREADS,
        [...shape, begins, cursors, tileBegins, list, tileTable],
        2 * groups * 4,
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
      );
      if (isAdded) return;
      backend.launch(combine, backend.blocks((rows * dOut) / 8, THREADS), THREADS, [
        ...shape,
        apart,
        call.out,
        call.downBias,
        dOut,
      ]);
    }),
  );
}
