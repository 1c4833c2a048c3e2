import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { withScratch } from '../../kernels/run.js';
import { ACTIVATIONS, type ExpertsCall } from '../call.js';
import { matrixMap } from './matrices.js';
import { unitsOf } from './units.js';

const hundredsKernel = (type: string): Kernel =>
  kernel(
    'experts-hundreds.sm90a',
    `experts_hundreds_${type}`,
    `i*32 i*32 ${'p '.repeat(8)}${'i '.repeat(12)}`,
  );
const kernels = { bfloat16: hundredsKernel('bf16'), float16: hundredsKernel('f16') };

const THREADS = 256;
/** Most rows: their list lies in shared memory. */
const MOST_ROWS = 1024;
/** Widest rows of x and of the output: a block keeps all of a slice's weights. */
const MOST_WIDTH = 1024;
const SLICES = 4;
const DEPTH = 64;
/** Neurons of a unit. */
const WIDTH = 128;
/** The ring, barriers, lists and counts; as experts-hundreds.sm90a.cu has them. */
const REST = 1024 + 4 * 16384 + 16 + 4 * MOST_ROWS + 64;
const HIDDEN = 1;
const OUT = 2;

/** What {@link runHundreds} gets beside the call: x in the storage's 16 bits, rows `pitch` apart, and where results go. */
export interface HundredsRun {
  readonly x16: number;
  readonly pitch: number;
  readonly out: number;
  /** Whether results are float32, or of the storage's 16 bits. */
  readonly isOut32: boolean;
}

/** Whether a call is one for the single launch of {@link runHundreds}. */
export function hundredsFits(call: Pick<ExpertsCall, 'rows' | 'dIn' | 'dOut' | 'gate'>): boolean {
  return (
    call.gate === 0 && call.rows <= MOST_ROWS && call.dIn <= MOST_WIDTH && call.dOut <= MOST_WIDTH
  );
}

/**
 * The expert op in one launch, for some hundred rows. Equal calls give equal bits.
 *
 * @param call One that {@link hundredsFits}.
 */
export function runHundreds(
  backend: CudaBackend,
  call: ExpertsCall & { readonly storage: 'float16' | 'bfloat16' },
  { x16, pitch, out, isOut32 }: HundredsRun,
): void {
  const { rows, dOut, hidden, experts, expertSize, storage } = call;
  const { multiprocessors, isEmulated } = backend.device;
  const units = unitsOf(experts, expertSize, WIDTH);
  const quarter = Math.ceil(dOut / SLICES / DEPTH) * DEPTH;
  const counters = (units.count + rows * SLICES) * 4;
  const hiddenBytes = units.count * rows * WIDTH * 2;
  const partialBytes = units.count * rows * dOut * 2;
  withScratch(backend, hiddenBytes + partialBytes + counters, (memory) => {
    const partial = memory + hiddenBytes;
    const counts = partial + partialBytes;
    backend.memset(counts, counters);
    // Blocks wait for each other; where they run one after the other, in two launches.
    for (const stages of isEmulated ? [HIDDEN, OUT] : [HIDDEN | OUT]) {
      backend.launch(
        kernels[storage],
        Math.min(units.count * SLICES, multiprocessors),
        THREADS,
        [
          matrixMap(backend, call.up, pitch, hidden, WIDTH / SLICES),
          matrixMap(backend, call.down, dOut, hidden, DEPTH),
          x16,
          backend.pointer(call.selection),
          call.upBias,
          call.downBias,
          memory,
          partial,
          out,
          counts,
          rows,
          pitch,
          pitch,
          dOut,
          quarter,
          experts,
          expertSize,
          units.perUnit,
          units.parts,
          ACTIVATIONS.indexOf(call.activation),
          isOut32 ? 1 : 0,
          stages,
        ],
        Math.ceil(pitch / DEPTH) * 4096 + (quarter / DEPTH) * 16384 + REST,
      );
    }
  });
}
