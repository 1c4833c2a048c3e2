import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { withScratch } from '../kernels/run.js';
import { type Kernel, kernel } from '../launch.js';
import { anyOf, type ExpertsCall, neuronBytes, plannedDensity } from './call.js';
import { DOZENS_STRUCT, dozensStruct } from './dozens-struct.js';
import { inLaunches, type LaunchRows } from './launch-rows.js';
import { wideMap } from './matrices.js';

/** The most rows of one launch. */
export const STREAM_ROWS = 16;

// As experts-stream.sm90a.cu has them.
const THREADS = 288;
const COLUMNS = 512;
const BOX_ROWS = 8;
const SLOT = 2 * BOX_ROWS * COLUMNS * 2;
/** Of the ring: what is under way. */
const SLOTS = 8;
const SUMS = 8 * 16 * 20 * 4;
const BUFFERS = 4;
const SUM_THREADS = 128;
/** Blocks of a cluster, which share the columns of the output. */
const RANKS = 4;
/** Multiprocessors that clusters may not find together: 31 clusters of four have no room on 132. */
const SPARE = 12;

/** Bytes of weights from which a pause between two launches costs more than another sum of the output. */
const LEAST_BYTES = 48e6;
/** The least share of neurons that some row is expected to run: all weights are read. */
const LEAST_SHARE = 0.88;

const streamKernel = (name: string): Kernel =>
  kernel('experts-stream.sm90a', `experts_stream_${name}`, `i*32 i*32 i*32 ${DOZENS_STRUCT}`);
const kernels = {
  float16: { plain: streamKernel('plain_f16'), gated: streamKernel('gated_f16') },
  bfloat16: { plain: streamKernel('plain_bf16'), gated: streamKernel('gated_bf16') },
};
const sumKernel = kernel('experts-stream.sm90a', 'experts_stream_sum', DOZENS_STRUCT);

/** Blocks of a cluster; on an emulated card one. */
const ranksOf = (backend: CudaBackend) => (backend.device.isEmulated ? 1 : RANKS);

/** Whether the path has kernels for a call on this card. */
export function streamFits(backend: CudaBackend, call: ExpertsCall): boolean {
  const { dIn, dOut, storage } = call;
  const ranks = ranksOf(backend);
  return (
    backend.device.computeCapability[0] === 9 &&
    (storage === 'float16' || storage === 'bfloat16') &&
    dIn % 64 === 0 &&
    dOut % (64 * ranks) === 0 &&
    dOut <= ranks * COLUMNS &&
    sharedBytes(call, ranks) <= backend.device.sharedPerBlockOptin
  );
}

/** Whether it is the fastest: so many weights that only reading them counts, nearly all of which some row runs. */
export function streamPays(call: ExpertsCall): boolean {
  const { rows, hidden, gate } = call;
  const share = anyOf(rows, plannedDensity(call));
  return (
    rows <= STREAM_ROWS &&
    hidden * neuronBytes(call, gate !== 0) >= LEAST_BYTES &&
    share >= LEAST_SHARE
  );
}

/** Neurons of a cluster in a step. */
const neuronsOf = ({ gate }: ExpertsCall, ranks: number) => (gate === 0 ? 16 : 8) * ranks;

function sharedBytes(call: ExpertsCall, ranks: number): number {
  const xRow = Math.ceil(call.dIn / COLUMNS) * COLUMNS * 2;
  const hiddenPitch = Math.ceil(neuronsOf(call, ranks) / 16) * 32 + 16;
  const barriers = 2 * SLOTS + 3 + BUFFERS;
  return SLOTS * SLOT + 16 * xRow + 2 * SUMS + BUFFERS * 16 * hiddenPitch + barriers * 8;
}

/**
 * The expert op for up to {@link STREAM_ROWS} rows a launch where there are many weights: all are read once, without a
 * pause. Equal calls give equal bits.
 *
 * @param call One that {@link streamFits}.
 * @returns [N, dOut], in 16 bits where the backend's precision is.
 */
export function streamRows(backend: CudaBackend, call: ExpertsCall): TensorInfo {
  return inLaunches(backend, call, STREAM_ROWS, (part, at) => launch(backend, part, at));
}

function launch(backend: CudaBackend, call: ExpertsCall, at: LaunchRows): void {
  const { rows, dIn, dOut, hidden, gate, storage } = call;
  const { multiprocessors } = backend.device;
  const ranks = ranksOf(backend);
  // A card has room for fewer clusters than its multiprocessors would make: one that has to wait would take as long again.
  const room = ranks === 1 ? multiprocessors : Math.floor((multiprocessors - SPARE) / ranks);
  const clusters = Math.max(1, Math.min(room, Math.ceil(hidden / neuronsOf(call, ranks))));
  const { plain, gated } = kernels[storage === 'float16' ? 'float16' : 'bfloat16'];
  const map = (matrix: number, length: number) =>
    wideMap(backend, matrix, length, hidden, BOX_ROWS, COLUMNS / 64);
  const up = map(call.up, dIn);
  withScratch(backend, clusters * rows * dOut * 4, (partials) => {
    const struct = dozensStruct(call, at, { partials, splits: clusters });
    const isProgrammatic = true;
    backend.launch(
      gate === 0 ? plain : gated,
      clusters * ranks,
      THREADS,
      [up, gate === 0 ? up : map(gate, dIn), map(call.down, dOut), ...struct],
      sharedBytes(call, ranks),
      { cluster: ranks, isProgrammatic },
    );
    const sums = Math.ceil((rows * dOut) / 2 / SUM_THREADS);
    backend.launch(sumKernel, sums, SUM_THREADS, struct, 0, { isProgrammatic });
  });
}
