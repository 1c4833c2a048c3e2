import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from '../kernels/config.js';
import { runKernel } from '../kernels/run.js';
import { type ExpertsCall, WEIGHT_BYTES, type Storage } from './call.js';
import {
  callOf,
  dynamicKExperts,
  type ExpertsAttrs,
  type PackedInputs,
  pathOfFew,
} from './dynamic-k-experts.js';
import { fewRows } from './few.js';
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
  /** Packed as the few-rows path reads them. */
  router2: TensorInfo;
  router3: TensorInfo;
}

/** |output · relu(hidden · x)|, [N, experts]. */
function predictNorms(backend: CudaBackend, x: TensorInfo, { router0, router1 }: PackedRouter) {
  const attrs = { transposeA: false, transposeB: true };
  const hidden = runKernel(
    backend,
    '_FusedMatMul',
    { a: x, b: router0 },
    { ...attrs, activation: 'relu' },
  );
  const signed = runKernel(backend, 'BatchMatMul', { a: hidden, b: router1 }, attrs);
  const norms = runKernel(backend, 'Abs', { x: signed });
  for (const t of [hidden, signed]) backend.disposeIntermediateTensorInfo(t);
  return norms;
}

function routedExperts(
  backend: CudaBackend,
  call: Omit<ExpertsCall, 'selection'>,
  router: PackedRouter,
  rule: SelectionRule,
): TensorInfo {
  const [width = 0] = router.router0.shape;
  const unselected = { ...call, selection: call.x };
  if (pathOfFew(backend, unselected, width) === 'few') {
    const hidden = backend.pointer(router.router2);
    const output = backend.pointer(router.router3);
    return fewRows(backend, unselected, { hidden, output, width, rule });
  }
  const norms = predictNorms(backend, call.x, router);
  const selection = selectExperts(backend, norms, rule);
  const out = dynamicKExperts(backend, { ...call, selection });
  for (const t of [norms, selection]) backend.disposeIntermediateTensorInfo(t);
  return out;
}

/**
 * `PackRouter`: a router's hidden [width, dIn] and output [n, width] as [router0, router1, router2, router3] for experts
 * of the same storage. `RoutedExperts`: x, a packed router and packed experts; a selection rule beside the attributes of
 * DynamicKExperts; the router, the selection and the experts' sum, for few rows in one launch.
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
    ({ inputs, attrs, backend }) => {
      const { x, router1 } = inputs;
      const [experts = 0] = router1.shape;
      const call = callOf(backend, inputs, attrs, { x, selection: x, experts });
      const { rule, value } = attrs;
      return routedExperts(backend, call, inputs, { rule, value });
    },
  ),
];
