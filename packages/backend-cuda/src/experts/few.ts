import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { withScratch } from '../kernels/run.js';
import { ACTIVATIONS, type ExpertsCall, WEIGHT_BYTES } from './call.js';
import { canRoute, FEW_ROWS, FEW_THREADS, type FewPlan, planFew } from './few-plan.js';
import { fewHopperFits, type FewRows, launchFewHopper, type PackedRouter } from './few-hopper.js';
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
const kernels = {
  float16: both('f16'),
  bfloat16: both('bf16'),
  tf32: both('tf32'),
  float32: both('f32'),
  int8: both('int8'),
};

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
 * @returns [N, dOut], in bf16 where the backend's precision is.
 */
export function fewRows(
  backend: CudaBackend,
  call: ExpertsCall,
  router?: PackedRouter,
): TensorInfo {
  const { rows, dIn, dOut, experts, storage } = call;
  const isOut16 = backend.precision === 'bf16';
  const shape = [rows, dOut];
  const out = isOut16 ? backend.output16(shape) : backend.output(shape, 'float32');
  const isX16 = backend.has16(call.x) && (storage === 'bfloat16' || backend.isOnly16(call.x));
  const x = isX16 ? backend.pointer16(call.x) : backend.pointer(call.x);
  const selection = router ? 0 : backend.pointer(call.selection);
  const enqueue = fewHopperFits(backend, call, router?.width) ? launchFewHopper : launch;
  for (let first = 0; first < rows; first += FEW_ROWS) {
    enqueue(backend, { ...call, rows: Math.min(FEW_ROWS, rows - first) }, router, {
      x: x + first * dIn * (isX16 ? 2 : 4),
      isX16,
      selection: selection + first * experts,
      out: out.pointer + first * dOut * (isOut16 ? 2 : 4),
      isOut16,
    });
  }
  return out;
}

function launch(
  backend: CudaBackend,
  call: ExpertsCall,
  router: PackedRouter | undefined,
  at: FewRows,
): void {
  const { rows, storage, gate } = call;
  const { device } = backend;
  const routerWidth = router?.width ?? 0;
  const plan = planFew({ ...call, routerWidth }, device.multiprocessors);
  const exact = storage === 'float32' && backend.precision !== 'float32' ? 'tf32' : storage;
  const function_ = kernels[exact][gate === 0 ? 'plain' : 'gated'];
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
            at.x,
            at.selection,
            call.up,
            gate,
            call.down,
            call.upBias,
            gate === 0 ? 0 : call.gateBias,
            call.downBias,
            WEIGHT_BYTES[storage] === 1 ? call.scales : 0,
            router?.hidden ?? 0,
            router?.output ?? 0,
            at.out,
            partials,
            hidden,
            forecast,
            call.state,
            rows,
            call.dIn,
            call.dOut,
            call.experts,
            call.expertSize,
            ACTIVATIONS.indexOf(call.activation),
            at.isX16 ? 1 : 0,
            at.isOut16 ? 1 : 0,
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
