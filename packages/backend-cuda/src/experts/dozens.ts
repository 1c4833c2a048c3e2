import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { withScratch } from '../kernels/run.js';
import { type Kernel, kernel } from '../launch.js';
import type { ExpertsCall } from './call.js';
import {
  DOZENS_ROWS,
  DOZENS_THREADS,
  type DozensCut,
  type DozensPlan,
  planDozens,
  upTo,
} from './dozens-plan.js';
import { DOZENS_STRUCT, dozensStruct } from './dozens-struct.js';
import { byForm, formOf, inLaunches, type LaunchRows } from './launch-rows.js';

const dozensKernel = (name: string): Kernel =>
  kernel('experts-dozens.sm90a', `experts_dozens_${name}`, DOZENS_STRUCT);
const forRows = (name: string) => ({
  16: dozensKernel(`${name}_16`),
  32: dozensKernel(`${name}_32`),
});
const all = (name: string) => ({
  plain: forRows(`up_plain_${name}`),
  gated: forRows(`up_gated_${name}`),
  down: forRows(`down_${name}`),
});
const kernels = byForm(all);

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
 * @returns [N, dOut], in 16 bits where the backend's precision is.
 */
export function dozensRows(backend: CudaBackend, call: ExpertsCall): TensorInfo {
  return inLaunches(backend, call, DOZENS_ROWS, (part, at) => launch(backend, part, at));
}

function launch(backend: CudaBackend, call: ExpertsCall, at: LaunchRows): void {
  const { gate } = call;
  const plan = planOf(backend, call);
  const { [gate === 0 ? 'plain' : 'gated']: up, down } = kernels[formOf(backend, call)];
  const counterBytes = upTo(256, plan.down.clusters * 4);
  withScratch(backend, counterBytes + plan.partialBytes + plan.hiddenBytes, (counters) => {
    const partials = counters + counterBytes;
    const hidden = partials + plan.partialBytes;
    const run = (function_: Kernel, cut: DozensCut, blocks: number) =>
      backend.launch(
        function_,
        blocks,
        DOZENS_THREADS,
        dozensStruct(call, at, {
          hidden,
          partials,
          counters,
          skip: plan.skip,
          capacity: cut.capacity,
          across: cut.across,
          rowGroups: plan.rowGroups,
          steps: cut.steps,
          slots: cut.slots,
          splits: plan.splits,
          groups: plan.down.clusters,
        }),
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
