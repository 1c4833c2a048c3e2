import type { CudaBackend } from '../../backend.js';
import { withScratch } from '../../kernels/run.js';
import { type Kernel, kernel } from '../../launch.js';
import { ACTIVATIONS, type ExpertsCall, plannedDensity } from '../call.js';
import { matrixMap } from './matrices.js';
import { unitsOf } from './units.js';

const MODULE = 'experts-hundreds.sm90a';
const hundredsKernel = (name: string): Kernel =>
  kernel(MODULE, `experts_hundreds_${name}`, `${'p '.repeat(10)}${'i '.repeat(9)}`);
const combineKernel = (type: string): Kernel =>
  kernel(MODULE, `experts_hundreds_combine_${type}`, `${'p '.repeat(4)}${'i '.repeat(7)}`);

/** By the widest x and output that they take. */
const kernelsOf = (type: string) => ({
  added: { 768: hundredsKernel(`${type}_3`), 1024: hundredsKernel(`${type}_4`) },
  apart: { 768: hundredsKernel(`apart_${type}_3`), 1024: hundredsKernel(`apart_${type}_4`) },
  combine: combineKernel(type),
});
const kernels = { bfloat16: kernelsOf('bf16'), float16: kernelsOf('f16') };

const maskedKernel = (name: string): Kernel =>
  kernel(
    'experts-hundreds-masked.sm90a',
    `experts_hundreds_masked_${name}`,
    `i*32 i*32 p p p ${'i '.repeat(8)}`,
  );
const maskedKernels = {
  bfloat16: { up: maskedKernel('up_bf16'), down: maskedKernel('down_bf16') },
  float16: { up: maskedKernel('up_f16'), down: maskedKernel('down_f16') },
};

const THREADS = 256;
/** Most rows: their list lies in shared memory. */
const MOST_ROWS = 1024;
/** Widest rows of x and of the output: a block keeps all of its weights. */
const MOST_WIDTH = 1024;
/** Blocks that share a unit's work, a cluster. */
const SLICES = 4;
/** Neurons of a unit. */
const WIDTH = 128;
/** Rows between two exchanges; as experts-hundreds.sm90a.cu has them. */
const CHUNK = 96;
/** Most rows of a tile of the masked layer, parts of its products' sums, shared memory; as its file has them. */
const TILE_ROWS = 256;
const UP_PARTS = 2;
const DOWN_PARTS = 8;
const MASKED_SHARED = 1024 + 4 * 5 * 8192 + 65_536 + 1024 + 128;
const HIDDEN = 1;
const OUT = 2;
const EARLY = 4;

/**
 * How a call is done: results of units added to the output in whatever order they come; kept apart and added up in their
 * order; or as a dense layer in two launches that zeroes what a row does not run. The last two give equal bits for equal
 * calls.
 */
export type HundredsWay = 'added' | 'apart' | 'masked';

/** What {@link runHundreds} gets beside the call: x in the storage's 16 bits, rows `pitch` apart, and where results go. */
export interface HundredsRun {
  readonly x16: number;
  readonly pitch: number;
  readonly out: number;
  /** Whether results are float32, or of the storage's 16 bits. */
  readonly isOut32: boolean;
  /** Results that are added come in float32. */
  readonly way: HundredsWay;
}

type HundredsCall = ExpertsCall & { readonly storage: 'float16' | 'bfloat16' };

/** Whether a call is one for {@link runHundreds}. */
export function hundredsFits(call: Pick<ExpertsCall, 'rows' | 'dIn' | 'dOut' | 'gate'>): boolean {
  return (
    call.gate === 0 && call.rows <= MOST_ROWS && call.dIn <= MOST_WIDTH && call.dOut <= MOST_WIDTH
  );
}

/** Rows that run one unit, beyond which a dense layer is faster. */
const MOST_UNIT_ROWS = 110;

/** The way for a call, by its shape and expected density alone. */
export function hundredsWay(
  call: Pick<ExpertsCall, 'rows' | 'experts' | 'expertSize' | 'density'>,
  isRepeatable: boolean,
): HundredsWay {
  const { perUnit } = unitsOf(call.experts, call.expertSize, WIDTH);
  const density = plannedDensity(call);
  if (call.rows * (1 - (1 - density) ** perUnit) > MOST_UNIT_ROWS) return 'masked';
  return isRepeatable ? 'apart' : 'added';
}

/**
 * The expert op for some hundred rows.
 *
 * @param call One that {@link hundredsFits}.
 */
export function runHundreds(backend: CudaBackend, call: HundredsCall, run: HundredsRun): void {
  if (run.way === 'masked') runMaskedHundreds(backend, call, run);
  else runUnits(backend, call, run, run.way === 'apart');
}

/** One launch over units, and one that adds up what they kept apart. */
function runUnits(
  backend: CudaBackend,
  call: HundredsCall,
  { x16, pitch, out, isOut32 }: HundredsRun,
  isApart: boolean,
): void {
  const { rows, dOut, experts, expertSize, storage } = call;
  const { isEmulated } = backend.device;
  const units = unitsOf(experts, expertSize, WIDTH);
  const width = Math.max(pitch, dOut) <= 768 ? 768 : 1024;
  const { [isApart ? 'apart' : 'added']: main, combine } = kernels[storage];
  const quarterBytes = (width / SLICES) * 2;
  const shared =
    WIDTH * (quarterBytes + 16) + CHUNK * (WIDTH * 6 + 16 + quarterBytes + 64) + MOST_ROWS * 6 + 64;
  const unit = [experts, expertSize, units.perUnit, units.parts];
  const selection = backend.pointer(call.selection);
  const partsBytes = isApart ? units.count * rows * dOut * 2 : 0;
  // Where blocks run one after the other, activations go through memory, from one launch to the next.
  const hiddenBytes = isEmulated ? units.count * rows * WIDTH * 2 : 0;
  const run = (parts: number) => {
    const whole = HIDDEN | OUT | (isApart ? 0 : EARLY);
    for (const stages of isEmulated ? [HIDDEN, OUT] : [whole]) {
      backend.launch(
        main[width],
        units.count * SLICES,
        THREADS,
        [
          call.up,
          call.down,
          x16,
          selection,
          call.upBias,
          call.downBias,
          isEmulated ? parts + partsBytes : 0,
          isApart ? parts : 0,
          isApart ? 0 : out,
          // The first 8 bytes are the few-rows path's.
          call.state + 8,
          rows,
          pitch,
          dOut,
          ...unit,
          ACTIVATIONS.indexOf(call.activation),
          stages,
        ],
        shared,
        { isProgrammatic: !isApart },
      );
    }
    if (!isApart) return;
    const args = [selection, parts, call.downBias, out, rows, dOut, ...unit, isOut32 ? 1 : 0];
    backend.launch(combine, rows, MOST_WIDTH / 8, args);
  };
  if (partsBytes + hiddenBytes === 0) run(0);
  else withScratch(backend, partsBytes + hiddenBytes, run);
}

/** A dense layer, zeros where a row does not run a neuron: a launch for each product. */
function runMaskedHundreds(
  backend: CudaBackend,
  call: HundredsCall,
  { x16, pitch, out, isOut32 }: HundredsRun,
): void {
  const { rows, dOut, hidden, experts, expertSize, storage } = call;
  const { up, down } = maskedKernels[storage];
  const tiles = Math.ceil(rows / TILE_ROWS);
  const tileRows = Math.ceil(rows / tiles / 8) * 8;
  const boxRows = Math.ceil(tileRows / 64) * 64;
  const threads = (boxRows / 64 + 1) * 128;
  const unit = [experts, expertSize, ACTIVATIONS.indexOf(call.activation), isOut32 ? 1 : 0];
  withScratch(backend, rows * hidden * 2, (activations) => {
    backend.launch(
      up,
      [Math.ceil(hidden / 64) * UP_PARTS, tiles, 1],
      threads,
      [
        matrixMap(backend, call.up, pitch, hidden, 64),
        matrixMap(backend, x16, pitch, rows, boxRows),
        call.upBias,
        backend.pointer(call.selection),
        activations,
        rows,
        tileRows,
        pitch,
        hidden,
        ...unit,
      ],
      MASKED_SHARED,
      { isProgrammatic: true },
    );
    backend.launch(
      down,
      [Math.ceil(dOut / 64) * DOWN_PARTS, tiles, 1],
      threads,
      [
        matrixMap(backend, call.down, dOut, hidden, 64),
        matrixMap(backend, activations, hidden, rows, boxRows),
        call.downBias,
        0,
        out,
        rows,
        tileRows,
        hidden,
        dOut,
        ...unit,
      ],
      MASKED_SHARED,
      { isProgrammatic: true },
    );
  });
}
