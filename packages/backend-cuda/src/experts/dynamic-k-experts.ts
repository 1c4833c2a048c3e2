import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from '../kernels/config.js';
import type { Activation, ExpertsCall, Storage } from './call.js';
import { dozensFits, dozensRows } from './dozens.js';
import { fewFits, fewRows } from './few.js';
import { HOPPER_ROWS } from './few-hopper-plan.js';
import { FEW_ROWS } from './few-plan.js';
import { hundredsFits } from './many/hundreds.js';
import { manyFits, manyRows } from './many/index.js';
import { maskedDense } from './masked-dense.js';
import { vectorOffsets } from './pack.js';
import { streamFits, streamPays, streamRows } from './stream.js';

/** An FFN as pack.ts lays it out. */
export interface PackedInputs {
  /** Biases and scales. */
  packed0: TensorInfo;
  /** State. */
  packed1: TensorInfo;
  /** Up. */
  packed2: TensorInfo;
  /** Down. */
  packed3: TensorInfo;
  /** Gate. */
  packed4?: TensorInfo;
}

/** Attributes of the op. */
export interface ExpertsAttrs {
  activation: Activation;
  expertSize: number;
  dOut: number;
  storage: Storage;
  expectedDensity?: number;
}

/** Up to this many rows memory's rate is what counts. */
const MOST_FEW_ROWS = 64;

/** The op on x with a selection bool [N, experts]. */
export function callOf(
  backend: CudaBackend,
  { packed0, packed1, packed2, packed3, packed4 }: PackedInputs,
  attrs: ExpertsAttrs,
  { x, selection, experts }: Pick<ExpertsCall, 'x' | 'selection' | 'experts'>,
): ExpertsCall {
  const [rows = 0, dIn = 0] = x.shape;
  const hidden = experts * attrs.expertSize;
  const offsets = vectorOffsets(hidden);
  const vectors = backend.pointer(packed0);
  return {
    rows,
    dIn,
    dOut: attrs.dOut,
    experts,
    expertSize: attrs.expertSize,
    hidden,
    activation: attrs.activation,
    storage: attrs.storage,
    density: attrs.expectedDensity,
    x,
    selection,
    up: backend.pointer(packed2),
    gate: packed4 ? backend.pointer(packed4) : 0,
    down: backend.pointer(packed3),
    upBias: vectors + offsets.upBias * 4,
    gateBias: vectors + offsets.gateBias * 4,
    downBias: vectors + offsets.downBias * 4,
    scales: vectors + offsets.scales * 4,
    state: backend.pointer(packed1),
  };
}

/** The path for a call's rows, where they are few; with a router of this width, if one is to select in the same launch. */
export function pathOfFew(
  backend: CudaBackend,
  call: ExpertsCall,
  routerWidth = 0,
): 'few' | 'stream' | 'dozens' | undefined {
  const { rows } = call;
  if (rows === 0 || rows > MOST_FEW_ROWS) return undefined;
  if (rows > HOPPER_ROWS && streamFits(backend, call) && streamPays(call)) return 'stream';
  if (rows > HOPPER_ROWS && dozensFits(backend, call)) return 'dozens';
  // Several launches of few rows take longer than one of some hundred.
  if (rows > FEW_ROWS && manyFits(backend, call) && hundredsFits(call)) return undefined;
  return fewFits(backend, call, routerWidth) ? 'few' : undefined;
}

/** Enqueues the op by the path for its rows. */
export function dynamicKExperts(backend: CudaBackend, call: ExpertsCall): TensorInfo {
  if (call.rows === 0) return backend.output([0, call.dOut], 'float32');
  const few = pathOfFew(backend, call);
  if (few === 'stream') return streamRows(backend, call);
  if (few === 'dozens') return dozensRows(backend, call);
  if (few === 'few') return fewRows(backend, call);
  if (manyFits(backend, call)) return manyRows(backend, call);
  return maskedDense(backend, call);
}

/** DynamicKExperts of packages/kernels. */
export const dynamicKernels: KernelConfig[] = [
  cudaKernel<PackedInputs & { x: TensorInfo; selection: TensorInfo }, ExpertsAttrs>(
    'DynamicKExperts',
    ({ inputs, attrs, backend }) => {
      const { x, selection } = inputs;
      const experts = selection.shape[1] ?? 0;
      return dynamicKExperts(backend, callOf(backend, inputs, attrs, { x, selection, experts }));
    },
  ),
];
