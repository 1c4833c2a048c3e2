import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { withScratch } from '../kernels/run.js';
import { type Kernel, kernel } from '../launch.js';
import { ACTIVATIONS, type ExpertsCall, WEIGHT_BYTES } from './call.js';
import {
  DOZENS_ROWS,
  DOZENS_THREADS,
  type DozensCut,
  type DozensPlan,
  planDozens,
  upTo,
} from './dozens-plan.js';

const dozensKernel = (name: string): Kernel =>
  kernel(
    'experts-dozens.sm90a',
    `experts_dozens_${name}`,
    // One struct.
    `p ${'+p '.repeat(12)}${'+i '.repeat(16)}`,
  );
const forRows = (name: string) => ({
  16: dozensKernel(`${name}_16`),
  32: dozensKernel(`${name}_32`),
});
const all = (name: string) => ({
  plain: forRows(`up_plain_${name}`),
  gated: forRows(`up_gated_${name}`),
  down: forRows(`down_${name}`),
});
const kernels = {
  float16: all('f16'),
  bfloat16: all('bf16'),
  tf32: all('tf32'),
  float32: all('f32'),
  int8: all('int8'),
};

function planOf(backend: CudaBackend, call: ExpertsCall): DozensPlan {
  const { multiprocessors, isEmulated } = backend.device;
  return planDozens(
    { ...call, rows: Math.min(call.rows, DOZENS_ROWS), isGated: call.gate !== 0 },
    { multiprocessors, hasClusters: !isEmulated },
  );
}

/** Whether this is a Hopper card with room for the path's blocks. */
export function dozensFits(backend: CudaBackend, call: ExpertsCall): boolean {
  if (backend.device.computeCapability[0] !== 9) return false;
  const { up, down } = planOf(backend, call);
  const most = backend.device.sharedPerBlockOptin;
  // The list of experts lies where the first weights will.
  return up.sharedBytes <= most && down.sharedBytes <= most && call.experts <= MOST_EXPERTS;
}

/**
 * The expert op for some dozen rows, {@link DOZENS_ROWS} at a time: each weight that one of them needs is read once, in
 * two launches, each of which begins to read weights while what is before it still runs. Equal calls give equal bits.
 *
 * @param call One that {@link dozensFits}.
 * @returns [N, dOut], in bf16 where the backend's precision is.
 */
export function dozensRows(backend: CudaBackend, call: ExpertsCall): TensorInfo {
  const { rows, dIn, dOut, experts, storage } = call;
  const isOut16 = backend.precision === 'bf16';
  const shape = [rows, dOut];
  const out = isOut16 ? backend.output16(shape) : backend.output(shape, 'float32');
  const isX16 = backend.has16(call.x) && (storage === 'bfloat16' || backend.isOnly16(call.x));
  const x = isX16 ? backend.pointer16(call.x) : backend.pointer(call.x);
  const selection = backend.pointer(call.selection);
  for (let first = 0; first < rows; first += DOZENS_ROWS) {
    launch(
      backend,
      { ...call, rows: Math.min(DOZENS_ROWS, rows - first) },
      {
        x: x + first * dIn * (isX16 ? 2 : 4),
        isX16,
        selection: selection + first * experts,
        out: out.pointer + first * dOut * (isOut16 ? 2 : 4),
        isOut16,
      },
    );
  }
  return out;
}

interface Rows {
  x: number;
  isX16: boolean;
  selection: number;
  out: number;
  isOut16: boolean;
}

function launch(backend: CudaBackend, call: ExpertsCall, at: Rows): void {
  const { storage, gate } = call;
  const plan = planOf(backend, call);
  const exact = storage === 'float32' && backend.precision !== 'float32' ? 'tf32' : storage;
  const { [gate === 0 ? 'plain' : 'gated']: up, down } = kernels[exact];
  const counterBytes = upTo(256, plan.down.clusters * 4);
  withScratch(backend, counterBytes + plan.partialBytes + plan.hiddenBytes, (counters) => {
    const partials = counters + counterBytes;
    const hidden = partials + plan.partialBytes;
    const run = (function_: Kernel, cut: DozensCut, blocks: number) =>
      backend.launch(
        function_,
        blocks,
        DOZENS_THREADS,
        [
          at.x,
          at.selection,
          call.up,
          gate,
          call.down,
          call.upBias,
          gate === 0 ? 0 : call.gateBias,
          call.downBias,
          WEIGHT_BYTES[storage] === 1 ? call.scales : 0,
          at.out,
          hidden,
          partials,
          counters,
          call.rows,
          call.dIn,
          call.dOut,
          call.experts,
          call.expertSize,
          ACTIVATIONS.indexOf(call.activation),
          at.isX16 ? 1 : 0,
          at.isOut16 ? 1 : 0,
          plan.skip ? 1 : 0,
          cut.capacity,
          cut.across,
          plan.rowGroups,
          cut.steps,
          cut.slots,
          plan.splits,
          plan.down.clusters,
        ],
        cut.sharedBytes,
        { cluster: cut.ranks, isProgrammatic: true },
      );
    const { clusters, ranks } = plan.up;
    run(up[plan.tileRows], plan.up, clusters * ranks);
    run(down[plan.tileRows], plan.down, plan.down.clusters * plan.down.ranks * plan.splits);
  });
}

/** Numbers of 2 bytes, in a ring of 16 KB at least. */
const MOST_EXPERTS = 8192;
