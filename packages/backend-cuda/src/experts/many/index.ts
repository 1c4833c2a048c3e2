import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { formsIn } from '../../kernels/forms.js';
import { withScratch } from '../../kernels/run.js';
import { kernel } from '../../launch.js';
import { type ExpertsCall, HALF_OF, pitchOf } from '../call.js';
import { hundredsWay, runHundreds } from './hundreds.js';
import { runMasked } from './masked.js';
import type { ManyCall } from './many-call.js';
import { type NarrowRouter, narrowFits, runNarrow } from './narrow.js';
import { type ManyPlan, narrowPays, planMany } from './plan.js';
import { runSegments } from './segments.js';

const packKernels = {
  float16: kernel('experts-pack', 'experts_pack_f16', 'p p p l i i'),
  bfloat16: kernel('experts-pack', 'experts_pack_bf16', 'p p p l i i'),
};

/** Neurons and expert size that the masked kernels can tell apart; fewer experts in a tile than their words have bits. */
const MOST_HIDDEN = 2 ** 16;
const LEAST_EXPERT = 4;

/** Whether the many-rows path takes a call: a Hopper card, weights in 16 bits, lines of 16 bytes. */
export function manyFits(backend: CudaBackend, call: ExpertsCall): boolean {
  return (
    backend.device.computeCapability[0] === 9 &&
    isHalf(call) &&
    call.dIn > 0 &&
    call.dOut > 0 &&
    call.dOut % 8 === 0 &&
    call.hidden % 8 === 0 &&
    call.hidden < MOST_HIDDEN &&
    call.expertSize >= LEAST_EXPERT &&
    call.rows * Math.ceil(call.hidden / 64) < 2 ** 32
  );
}

const isHalf = (call: ExpertsCall): call is ExpertsCall & Pick<ManyCall, 'storage'> =>
  call.storage === 'bfloat16' || call.storage === 'float16';

/** Whether {@link manyRows} takes a call with a router of this width, which then chooses in the same launch. */
export function manyRouted(backend: CudaBackend, call: ExpertsCall, width: number): boolean {
  return (
    narrowPays(call, backend.device.multiprocessors) &&
    narrowFits(call, width) &&
    manyFits(backend, call)
  );
}

/**
 * The expert op for many rows: reads nothing back and depends on shapes and expected density alone, so that a CUDA
 * graph can hold it.
 *
 * @param call One that {@link manyFits}.
 * @param plan How to do it, in place of what {@link planMany} would choose.
 * @param router One for {@link manyRouted}, in place of the call's selection.
 * @returns [N, dOut] in the storage's type of 16 bits, a few hundred rows only where that is the backend's precision.
 */
export function manyRows(
  backend: CudaBackend,
  call: ExpertsCall,
  {
    plan = planMany(call, backend.device.multiprocessors, backend.deterministic),
    router,
  }: { plan?: ManyPlan; router?: NarrowRouter } = {},
): TensorInfo {
  if (!isHalf(call)) throw new Error(`The many-rows path has no experts in ${call.storage}.`);
  const { rows, dIn, dOut, storage } = call;
  const half = HALF_OF[storage];
  const { deterministic } = backend;
  const pitch = pitchOf(dIn, storage);
  /** Calls `use` with x in the storage's 16 bits. */
  const withX16 = (use: (x16: number) => void) => {
    if (pitch === dIn) return use(backend.pointer16(call.x, half));
    return withScratch(backend, rows * pitch * 2, (x16) => {
      const blocks = Math.min(Math.ceil(rows / 8), 65_535);
      const args = [backend.pointer(call.x), x16, 0, rows, dIn, pitch];
      backend.launch(packKernels[storage], blocks, 256, args);
      use(x16);
    });
  };
  if (plan.kind === 'hundreds') {
    const way = hundredsWay(call, deterministic);
    const isOut32 = backend.precision !== half;
    const out = formsIn(backend, isOut32 ? undefined : half).output([rows, dOut]);
    withX16((x16) => runHundreds(backend, call, { x16, pitch, out: out.pointer, isOut32, way }));
    return out;
  }
  const out = backend.output16([rows, dOut], half);
  withX16((x16) => {
    const many: ManyCall = { ...call, x16, pitch, out: out.pointer };
    if (plan.kind === 'segments') runSegments(backend, many, plan);
    else if (plan.kind === 'narrow') runNarrow(backend, many, plan.isOrdered, router);
    else runMasked(backend, many);
  });
  return out;
}
