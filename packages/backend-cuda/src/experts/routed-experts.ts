import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from '../kernels/config.js';
import { batchMatMul } from '../products/kernels.js';
import { WEIGHT_BYTES, type Storage } from './call.js';
import {
  callOf,
  dynamicKExperts,
  type ExpertsAttrs,
  type PackedInputs,
  pathOfFew,
} from './dynamic-k-experts.js';
import { fewRows } from './few.js';
import { manyRouted, manyRows } from './many/index.js';
import { packRows } from './pack.js';
import { selectExperts, type SelectionRule } from './select.js';

interface Router {
  /** [width, dIn] */
  hidden: TensorInfo;
  /** [experts, width] */
  output: TensorInfo;
}

interface PackedRouter {
  /** [width, dIn], plain. */
  router0: TensorInfo;
  /** [experts, width], plain. */
  router1: TensorInfo;
  /** Packed as the kernels read them that choose themselves, in the experts' storage. */
  router2: TensorInfo;
  router3: TensorInfo;
}

/** output · relu(hidden · x), [N, experts] in float32: the predicted norms but for their signs. */
function signedNorms(backend: CudaBackend, x: TensorInfo, { router0, router1 }: PackedRouter) {
  const transposes = { transposeA: false, transposeB: true };
  const hidden = batchMatMul(backend, { a: x, b: router0, ...transposes, activation: 'relu' });
  const norms = batchMatMul(backend, { a: hidden, b: router1, ...transposes, isOut32: true });
  backend.disposeIntermediateTensorInfo(hidden);
  return norms;
}

function routedExperts(
  backend: CudaBackend,
  inputs: PackedInputs & PackedRouter & { x: TensorInfo },
  attrs: ExpertsAttrs & SelectionRule,
): TensorInfo {
  const { x } = inputs;
  const [experts = 0, width = 0] = inputs.router1.shape;
  const unselected = callOf(backend, inputs, attrs, { x, selection: x, experts });
  const router = () => ({
    hidden: backend.pointer(inputs.router2),
    output: backend.pointer(inputs.router3),
    width,
    rule: attrs,
  });
  if (pathOfFew(backend, unselected, width) === 'few') {
    return fewRows(backend, unselected, router());
  }
  if (manyRouted(backend, unselected, width)) {
    return manyRows(backend, unselected, { router: router() });
  }
  const norms = signedNorms(backend, x, inputs);
  const selection = selectExperts(backend, norms, attrs, 'signed');
  // Made anew: a copy of the other call with its selection replaced takes V8 longer.
  const call = callOf(backend, inputs, attrs, { x, selection, experts });
  const out = dynamicKExperts(backend, call);
  for (const t of [norms, selection]) backend.disposeIntermediateTensorInfo(t);
  return out;
}

/**
 * `PackRouter`: a router's hidden [width, dIn] and output [n, width] as [router0, router1, router2, router3] for experts
 * of the same storage. `RoutedExperts`: x, a packed router and packed experts; a selection rule beside the attributes of
 * DynamicKExperts; the router, the selection and the experts' sum, for few rows in one launch, for many of a narrow layer
 * in two.
 */
export const routedKernels: KernelConfig[] = [
  cudaKernel<Router, { storage: Storage }>('PackRouter', ({ inputs, attrs, backend }) => {
    const { hidden, output } = inputs;
    // 8-bit experts have their rows of x, and so their router, in fp16.
    const storage = WEIGHT_BYTES[attrs.storage] === 1 ? 'float16' : attrs.storage;
    return [
      backend.alias(hidden, hidden.shape),
      backend.alias(output, output.shape),
      packRows(backend, hidden, storage),
      packRows(backend, output, storage),
    ];
  }),
  cudaKernel<PackedInputs & PackedRouter & { x: TensorInfo }, ExpertsAttrs & SelectionRule>(
    'RoutedExperts',
    ({ inputs, attrs, backend }) => routedExperts(backend, inputs, attrs),
  ),
];
