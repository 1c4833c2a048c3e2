import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { withScratch } from '../kernels/run.js';
import type { ExpertsCall } from './call.js';
import { canRoute, FEW_ROWS, FEW_THREADS, type FewPlan, planFew } from './few-plan.js';
import { fewHopperFits, launchFewHopper, type PackedRouter } from './few-hopper.js';
import {
  byForm,
  formOf,
  inLaunches,
  inputArguments,
  type LaunchRows,
  shapeArguments,
} from './launch-rows.js';
import { RULES } from './select.js';

/** Stages of a launch, as experts-few.cu numbers them. */
const ROUTE = 1;
const HIDDEN = 2;
const DOWN = 4;
const SUM = 8;

const POINTERS = 16;
const fewKernel = (name: string): Kernel =>
  kernel(
    'experts-few',
    `experts_few_${name}`,
    // One struct.
    `p ${'+p '.repeat(POINTERS - 1)}${'+i '.repeat(10)}+f${' +i'.repeat(5)}`,
  );
const both = (name: string) => ({
  plain: fewKernel(`plain_${name}`),
  gated: fewKernel(`gated_${name}`),
});
const kernels = byForm(both);

/** Whether this card has room for the few-rows path's blocks, and these the time to select for themselves. */
export function fewFits(backend: CudaBackend, call: ExpertsCall, routerWidth = 0): boolean {
  if (fewHopperFits(backend, call, routerWidth)) return true;
  const shape = { ...call, rows: Math.min(call.rows, FEW_ROWS), routerWidth };
  const { sharedBytes } = planFew(shape, backend.device.multiprocessors);
  return (
    sharedBytes <= backend.device.sharedPerBlockOptin && (routerWidth === 0 || canRoute(shape))
  );
}

/**
 * The expert op for few rows, {@link FEW_ROWS} a launch: only the weights of experts that one of those rows selects are
 * read, once.
 *
 * @param router Selects in place of call.selection.
 * @returns [N, dOut], in 16 bits where the backend's precision is.
 */
export function fewRows(
  backend: CudaBackend,
  call: ExpertsCall,
  router?: PackedRouter,
): TensorInfo {
  const enqueue = fewHopperFits(backend, call, router?.width) ? launchFewHopper : launch;
  return inLaunches(
    backend,
    call,
    FEW_ROWS,
    (part, at) => enqueue(backend, part, router, at),
    router !== undefined,
  );
}

function launch(
  backend: CudaBackend,
  call: ExpertsCall,
  router: PackedRouter | undefined,
  at: LaunchRows,
): void {
  const { rows, gate } = call;
  const { device } = backend;
  const routerWidth = router?.width ?? 0;
  const plan = planFew({ ...call, routerWidth }, device.multiprocessors);
  const function_ = kernels[formOf(backend, call)][gate === 0 ? 'plain' : 'gated'];
  const forecastBytes = rows * routerWidth * 4;
  withScratch(backend, plan.partialBytes + forecastBytes + 256, (partials) =>
    withScratch(backend, Math.max(plan.hiddenBytes, 16), (hidden) => {
      const forecast = Math.ceil((partials + plan.partialBytes) / 256) * 256;
      for (const stages of launches(device.isEmulated, plan, router !== undefined)) {
        backend.launch(
          function_,
          plan.blocks,
          FEW_THREADS,
          [
            ...inputArguments(call, at),
            router?.hidden ?? 0,
            router?.output ?? 0,
            at.out,
            partials,
            hidden,
            forecast,
            call.state,
            ...shapeArguments(call, at),
            routerWidth,
            router ? RULES[router.rule.rule] : 0,
            router?.rule.value ?? 0,
            stages,
            plan.exchange ? 1 : 0,
            plan.groups,
            plan.splits,
            plan.capacity,
          ],
          plan.sharedBytes,
        );
      }
    }),
  );
}

/** One launch with barriers of the grid inside, or, where blocks run one after the other, a launch a stage. */
function launches(isEmulated: boolean, { exchange }: FewPlan, isRouted: boolean): number[] {
  const route = isRouted ? ROUTE : 0;
  if (!isEmulated) return [route | HIDDEN | DOWN | SUM];
  return [...(isRouted ? [ROUTE] : []), ...(exchange ? [HIDDEN, DOWN] : [HIDDEN | DOWN]), SUM];
}
