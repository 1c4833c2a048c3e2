import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import type { ExpertsCall } from './call.js';
import {
  type FewHopperPlan,
  HOPPER_ROWS,
  HOPPER_THREADS,
  planFewHopper,
} from './few-hopper-plan.js';
import { byForm, formOf, inputArguments, type LaunchRows, shapeArguments } from './launch-rows.js';
import { RULES, type SelectionRule } from './select.js';
import { withZeros } from './zeros.js';

/** Stages of a launch, as experts-few.sm90a.cu numbers them. */
const ROUTE = 1;
const EXPERTS = 2;
const SUM = 4;

const POINTERS = 14;
const hopperKernel = (name: string): Kernel =>
  kernel(
    'experts-few.sm90a',
    `experts_${name}`,
    // One struct.
    `p ${'+p '.repeat(POINTERS - 1)}${'+i '.repeat(10)}+f +i +i +i +f +f`,
  );
const both = (name: string) => ({
  one: { plain: hopperKernel(`one_plain_${name}`), gated: hopperKernel(`one_gated_${name}`) },
  three: { plain: hopperKernel(`three_plain_${name}`), gated: hopperKernel(`three_gated_${name}`) },
});
const kernels = byForm(both);

/** A router whose weights are packed beside its experts. */
export interface PackedRouter {
  /** Device address of [width, dIn], in rows of 16-byte multiples. */
  readonly hidden: number;
  /** Device address of [experts, width]. */
  readonly output: number;
  readonly width: number;
  readonly rule: SelectionRule;
}

function planOf({ device }: CudaBackend, call: ExpertsCall, routerWidth: number): FewHopperPlan {
  return planFewHopper(
    { ...call, routerWidth },
    device.multiprocessors,
    device.sharedPerBlockOptin,
  );
}

/** Whether this is a Hopper card with room for the path's blocks, and the rows are few enough for it. */
export function fewHopperFits(backend: CudaBackend, call: ExpertsCall, routerWidth = 0): boolean {
  return (
    backend.device.computeCapability[0] === 9 &&
    call.rows <= HOPPER_ROWS &&
    planOf(backend, call, routerWidth).owners > 0
  );
}

/** The expert op for up to {@link HOPPER_ROWS} rows in one launch. Equal calls give equal bits. */
export function launchFewHopper(
  backend: CudaBackend,
  call: ExpertsCall,
  router: PackedRouter | undefined,
  at: LaunchRows,
): void {
  const { rows, gate } = call;
  const plan = planOf(backend, call, router?.width ?? 0);
  const { [gate === 0 ? 'plain' : 'gated']: function_ } =
    kernels[formOf(backend, call)][rows === 1 ? 'one' : 'three'];
  const route = router ? ROUTE : 0;
  // Where blocks run one after the other they cannot wait for each other.
  const launches = backend.device.isEmulated
    ? [...(router ? [ROUTE] : []), EXPERTS, SUM]
    : [route | EXPERTS | SUM];
  withZeros(backend, plan.forecastBytes + plan.partialBytes, (partials) => {
    for (const stages of launches) {
      backend.launch(
        function_,
        plan.blocks,
        HOPPER_THREADS,
        [
          ...inputArguments(call, at),
          router?.hidden ?? 0,
          router?.output ?? 0,
          at.out,
          partials,
          partials + plan.partialBytes,
          ...shapeArguments(call, at),
          router?.width ?? 0,
          router ? RULES[router.rule.rule] : 0,
          router?.rule.value ?? 0,
          stages,
          plan.owners,
          plan.share,
          1 / call.expertSize,
          1 / plan.blocks,
        ],
        plan.sharedBytes,
        backend.device.isEmulated ? undefined : { isProgrammatic: true },
      );
    }
  });
}
