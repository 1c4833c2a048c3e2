import type { CudaBackend } from '../../backend.js';
import { withScratch } from '../../kernels/run.js';
import { type Kernel, kernel } from '../../launch.js';
import { ACTIVATIONS, anyOf, type ExpertsCall, plannedDensity, promisedDensity } from '../call.js';
import { matrixMap } from '../matrices.js';
import { MOST_ADDED, unitsOf } from './units.js';

const MODULE = 'experts-hundreds.sm90a';
const hundredsKernel = (name: string): Kernel =>
  kernel(MODULE, `experts_hundreds_${name}`, `i*32 i*32 ${'p '.repeat(7)}${'i '.repeat(11)}`);

/** By the widest x and output that they take. */
const kernelsOf = (type: string) => {
  const byWidth = (way: string) => ({
    768: hundredsKernel(`${way}_${type}_3`),
    1024: hundredsKernel(`${way}_${type}_4`),
  });
  return {
    added: byWidth('added'),
    added16: byWidth('added16'),
    apart: byWidth('apart'),
    combine: kernel(
      MODULE,
      `experts_hundreds_combine_${type}`,
      `${'p '.repeat(4)}${'i '.repeat(7)}`,
    ),
    round: kernel(MODULE, `experts_hundreds_round_${type}`, 'p p i'),
  };
};
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

/** Most rows: their list lies in shared memory. */
const MOST_ROWS = 1024;
/** Widest rows of x and of the output: a block keeps all of its weights. */
const MOST_WIDTH = 1024;
/** Blocks that share a unit's work, a cluster. */
const SLICES = 4;
/** Neurons of a unit. */
const WIDTH = 128;
/** Columns of a box; a block has so many times 64 columns of the output, and twice as many of x. */
const BOX = 64;
/** Rows between two exchanges, by the widest rows; as experts-hundreds.sm90a.cu has them. */
const CHUNK = { 768: 112, 1024: 64 };
/** Most blocks that fill the output, a power of two: more do not fill it sooner. */
const MOST_FILLERS = 64;
/** Most rows of a tile of the masked layer, parts of its products' sums, shared memory; as its file has them. */
const TILE_ROWS = 256;
const UP_PARTS = 2;
const DOWN_PARTS = 8;
const MASKED_SHARED = 1024 + 4 * 5 * 8192 + 65_536 + 1024 + 128;
const HIDDEN = 1;
const OUT = 2;

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
  readonly way: HundredsWay;
}

type HundredsCall = ExpertsCall & { readonly storage: 'float16' | 'bfloat16' };

/** Whether a call is one for {@link runHundreds}. */
export function hundredsFits(call: Pick<ExpertsCall, 'rows' | 'dIn' | 'dOut' | 'gate'>): boolean {
  return (
    call.gate === 0 && call.rows <= MOST_ROWS && call.dIn <= MOST_WIDTH && call.dOut <= MOST_WIDTH
  );
}

/** Rows that run one unit, beyond which a masked dense layer is faster, for each tile of its rows. */
const MOST_UNIT_ROWS = 130;

/** The way for a call, by its shape and expected density alone. */
export function hundredsWay(
  call: Pick<ExpertsCall, 'rows' | 'experts' | 'expertSize' | 'density'>,
  isRepeatable: boolean,
): HundredsWay {
  const units = unitsOf(call.experts, call.expertSize, WIDTH);
  const unitRows = call.rows * anyOf(units.perUnit, plannedDensity(call));
  if (unitRows > MOST_UNIT_ROWS * Math.ceil(call.rows / TILE_ROWS)) return 'masked';
  return isRepeatable ? 'apart' : 'added';
}

/**
 * The expert op for some hundred rows.
 *
 * @param call One that {@link hundredsFits}.
 */
export function runHundreds(backend: CudaBackend, call: HundredsCall, run: HundredsRun): void {
  if (run.way === 'masked') runMaskedHundreds(backend, call, run);
  else runUnits(backend, call, run);
}

/** The blocks that fill the output: they wait for one another, and clusters find room on three quarters of a card at least. */
const fillersFor = (multiprocessors: number) =>
  Math.min(MOST_FILLERS, 2 ** Math.floor(Math.log2(Math.max(1, multiprocessors * 0.75))));

/** One launch over units, and one that adds up what they kept apart or rounds what they added up. */
function runUnits(
  backend: CudaBackend,
  call: HundredsCall,
  { x16, pitch, out, isOut32, way }: HundredsRun,
): void {
  const { rows, dOut, hidden, experts, expertSize, storage } = call;
  const { isEmulated, multiprocessors } = backend.device;
  const units = unitsOf(experts, expertSize, WIDTH);
  const isApart = way === 'apart';
  const perRow = units.count * anyOf(units.perUnit, promisedDensity(call));
  const isExact = perRow <= MOST_ADDED[storage];
  const isAdded16 = !isApart && !isOut32 && isExact;
  const isRounded = !isApart && !isOut32 && !isExact;
  const width = Math.max(pitch, dOut) <= 768 ? 768 : 1024;
  const boxes = width / SLICES / BOX;
  const { added, added16, apart, combine, round } = kernels[storage];
  const main = (isApart ? apart : isAdded16 ? added16 : added)[width];
  const chunk = CHUNK[width];
  const shared =
    1024 +
    boxes * (2 * WIDTH * BOX * 2 + chunk * BOX * 4) +
    2 * 32 * (chunk + 8) * 4 +
    MOST_ROWS * 6 +
    256;
  const blocks = units.count * SLICES;
  // Those that find a multiprocessor while the launch before still has the others.
  const early = Math.max(0, Math.floor((multiprocessors - blocks) / SLICES));
  const unit = [experts, expertSize, units.perUnit, units.parts];
  const selection = backend.pointer(call.selection);
  const resultBytes = isApart ? units.count * rows * dOut * 2 : isRounded ? rows * dOut * 4 : 0;
  // Where blocks run one after the other, activations go through memory, from one launch to the next.
  const hiddenBytes = isEmulated ? units.count * rows * WIDTH * 2 : 0;
  const isProgrammatic = true;
  const run = (results: number) => {
    for (const stages of isEmulated ? [HIDDEN, OUT] : [HIDDEN | OUT]) {
      backend.launch(
        main,
        blocks,
        boxes * 128,
        [
          matrixMap(backend, call.up, pitch, hidden, WIDTH / 2),
          matrixMap(backend, call.down, dOut, hidden, WIDTH),
          x16,
          selection,
          call.upBias,
          call.downBias,
          isEmulated ? results + resultBytes : 0,
          resultBytes === 0 ? out : results,
          // The first 8 bytes are the few-rows path's.
          call.state + 8,
          rows,
          pitch,
          dOut,
          ...unit,
          ACTIVATIONS.indexOf(call.activation),
          stages,
          early,
          fillersFor(multiprocessors),
        ],
        shared,
        { isProgrammatic },
      );
    }
    if (isApart) {
      const args = [selection, results, call.downBias, out, rows, dOut, ...unit, isOut32 ? 1 : 0];
      backend.launch(combine, rows, MOST_WIDTH / 8, args, 0, { isProgrammatic });
    } else if (isRounded) {
      const count = rows * dOut;
      const args = [results, out, count];
      backend.launch(round, Math.ceil(count / 8 / 128), 128, args, 0, { isProgrammatic });
    }
  };
  if (resultBytes + hiddenBytes === 0) run(0);
  else withScratch(backend, resultBytes + hiddenBytes, run);
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
