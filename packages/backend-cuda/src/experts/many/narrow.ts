import type { CudaBackend } from '../../backend.js';
import { withScratch } from '../../kernels/run.js';
import { kernel } from '../../launch.js';
import { ACTIVATIONS, type ExpertsCall, pitchOf } from '../call.js';
import { matrixMap } from '../matrices.js';
import { RULES, type SelectionRule } from '../select.js';
import { withZeros } from '../zeros.js';
import type { ManyCall } from './many-call.js';

/** The widest rows of x and of the output, as the kernels are compiled for; a row's result stays in registers. */
const WIDTHS = [128, 192, 256] as const;
const MOST_WIDTH = 256;
/** Neurons of a unit. */
export const NARROW_UNIT = 128;
/** The most neurons of a layer; the most experts: bits of a word; neurons that are of one expert together. */
const MOST_HIDDEN = 16 * NARROW_UNIT;
const MOST_EXPERTS = 32;
const TOGETHER = 8;
/** The widest router that is run in the same launch as the choice. */
const MOST_ROUTER_WIDTH = 128;

const kernelsOf = (type: string) => ({
  rows: kernel(
    'experts-narrow-rows.sm90a',
    `experts_narrow_rows_${type}`,
    'p p p p i i i i i f i i p p p p p i',
  ),
  experts: WIDTHS.map((width) =>
    kernel(
      'experts-narrow.sm90a',
      `experts_narrow_${type}_${width}`,
      'i*32 i*32 p p p p p p i i i i i i',
    ),
  ),
});
const kernels = { bfloat16: kernelsOf('bf16'), float16: kernelsOf('f16') };

/** As the kernels have them: threads, rows, keys of the order; the router's rows in shared memory. */
const ROWS_THREADS = 256;
const BLOCK_ROWS = 128;
const KEYS = 256;
const ROWS_SHARED = 2 * KEYS * 4 + 8 * 4 + 16 * 4 + 8 * 36 * 4;
const routerShared = (pitch: number, width: number) => {
  const lines = Math.ceil(width / 16) * 16;
  return (lines * (Math.ceil(pitch / 64) * 64 + 32) + MOST_EXPERTS * (lines + 8)) * 2;
};
const THREADS = 384;
const TILE_ROWS = 128;
/** Slots of weights, x, barriers, two tiles, biases. */
const sharedOf = (width: number) =>
  (width === 256 ? 4 : 6) * width * 128 + 2 * 4 * 8192 + 272 + 2 * 1040 + (MOST_HIDDEN + 256) * 4;
/** Blocks on a multiprocessor that look at rows, all of which have to have room. */
const LOOKING = 2;
// Stages of a launch, as experts-narrow-rows.sm90a.cu numbers them.
const COUNT = 1;
const PLACE = 2;

/** A router whose choice is made in the launch before the experts'. */
export interface NarrowRouter {
  /** Device addresses of its matrices, [width, pitch of dIn] and [experts, pitch of width] in the experts' storage. */
  readonly hidden: number;
  readonly output: number;
  readonly width: number;
  readonly rule: SelectionRule;
}

/** Whether a call is one for {@link runNarrow}, with a router of this width if it has one. */
export function narrowFits(
  call: Pick<ExpertsCall, 'dIn' | 'dOut' | 'experts' | 'expertSize' | 'gate'>,
  routerWidth = 0,
): boolean {
  return (
    call.gate === 0 &&
    call.dIn <= MOST_WIDTH &&
    call.dOut <= MOST_WIDTH &&
    call.experts <= MOST_EXPERTS &&
    call.experts * call.expertSize <= MOST_HIDDEN &&
    call.expertSize % TOGETHER === 0 &&
    routerWidth <= MOST_ROUTER_WIDTH
  );
}

/**
 * The expert op of a narrow layer: writes to `call.out`, in the storage's 16 bits. Equal calls give equal bits.
 *
 * @param isOrdered Whether rows that run the same are put together, or all keep their places.
 * @param router Chooses in place of `call.selection`.
 */
export function runNarrow(
  backend: CudaBackend,
  call: ManyCall,
  isOrdered: boolean,
  router?: NarrowRouter,
): void {
  const { rows, dOut, experts, expertSize, hidden, pitch, storage } = call;
  const { isEmulated, multiprocessors } = backend.device;
  const blocks = Math.min(Math.ceil(rows / BLOCK_ROWS), multiprocessors * LOOKING);
  const width = WIDTHS.findIndex((most) => dOut <= most);
  const { rows: look, experts: run } = kernels[storage];
  const isProgrammatic = true;
  withZeros(backend, (KEYS + 2) * 4, (counts) =>
    withScratch(backend, 3 * rows * 4 + blocks * KEYS * 4, (bits) => {
      const codes = bits + rows * 4;
      const list = isOrdered ? codes + rows * 4 : 0;
      const offsets = codes + 2 * rows * 4;
      for (const stages of isEmulated && isOrdered ? [COUNT, PLACE] : [COUNT | PLACE]) {
        backend.launch(
          look,
          blocks,
          ROWS_THREADS,
          [
            router ? call.x16 : 0,
            router?.hidden ?? 0,
            router?.output ?? 0,
            router ? 0 : backend.pointer(call.selection),
            rows,
            pitch,
            router?.width ?? 0,
            router ? pitchOf(router.width, storage) : 0,
            router ? RULES[router.rule.rule] : 0,
            router?.rule.value ?? 0,
            experts,
            expertSize,
            bits,
            codes,
            counts,
            offsets,
            list,
            stages,
          ],
          ROWS_SHARED + (router ? routerShared(pitch, router.width) : 0),
          { isProgrammatic },
        );
      }
      backend.launch(
        run[width] as (typeof run)[number],
        Math.min(Math.ceil(rows / TILE_ROWS), multiprocessors),
        THREADS,
        [
          matrixMap(backend, call.up, pitch, hidden, NARROW_UNIT),
          matrixMap(backend, call.down, dOut, hidden, 64),
          call.x16,
          bits,
          list,
          call.upBias,
          call.downBias,
          call.out,
          rows,
          pitch,
          dOut,
          experts,
          expertSize,
          ACTIVATIONS.indexOf(call.activation),
        ],
        sharedOf(WIDTHS[width] as number),
        { isProgrammatic },
      );
    }),
  );
}
