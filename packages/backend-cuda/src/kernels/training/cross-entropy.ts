import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { kernel } from '../../launch.js';
import { cudaKernel } from '../config.js';

interface Inputs {
  /** [N, classes] */
  logits: TensorInfo;
  /** [N] int32 */
  labels: TensorInfo;
}

interface GradInputs extends Inputs {
  /** [N] */
  logSum: TensorInfo;
  /** [N] */
  dy: TensorInfo;
}

/** The most classes for which a warp takes a row, not a block. */
const WARP_CLASSES = 1024;

function variants(name: string, signature: string) {
  const variant = (suffix: string) => kernel('cross-entropy', `${name}_${suffix}`, signature);
  return {
    f32: { warp: variant('f32_warp'), block: variant('f32_block') },
    bf16: { warp: variant('bf16_warp'), block: variant('bf16_block') },
  };
}

const forward = variants('cross_entropy', 'p p p p i i');
const backward = variants('cross_entropy_grad', 'p p p p p i i');

/** How rows of logits are gone through. */
function plan(backend: CudaBackend, logits: TensorInfo) {
  const [rows, classes] = logits.shape as [number, number];
  const form = backend.isOnly16(logits) ? ('bf16' as const) : ('f32' as const);
  const by = classes <= WARP_CLASSES ? ('warp' as const) : ('block' as const);
  const grid = by === 'warp' ? Math.ceil(rows / 8) : rows;
  const pointer = form === 'bf16' ? backend.pointer16(logits) : backend.pointer(logits);
  return { rows, classes, form, by, grid, pointer };
}

/** [the loss of each row, the logarithm of its sum of exponentials] */
function crossEntropy(backend: CudaBackend, { logits, labels }: Inputs): TensorInfo[] {
  const { rows, classes, form, by, grid, pointer } = plan(backend, logits);
  const loss = backend.output([rows], 'float32');
  const logSum = backend.output([rows], 'float32');
  backend.launch(forward[form][by], grid, 256, [
    pointer,
    backend.pointer(labels),
    loss.pointer,
    logSum.pointer,
    rows,
    classes,
  ]);
  return [loss, logSum];
}

/** The gradient of the logits, in the form that these have. */
function crossEntropyGrad(
  backend: CudaBackend,
  { logits, labels, logSum, dy }: GradInputs,
): TensorInfo {
  const { rows, classes, form, by, grid, pointer } = plan(backend, logits);
  const out =
    form === 'bf16' ? backend.output16(logits.shape) : backend.output(logits.shape, 'float32');
  backend.launch(backward[form][by], grid, 256, [
    pointer,
    backend.pointer(labels),
    backend.pointer(logSum),
    backend.pointer(dy),
    out.pointer,
    rows,
    classes,
  ]);
  return out;
}

/** Softmax cross-entropy and its gradient. */
export const crossEntropyKernels: KernelConfig[] = [
  cudaKernel<Inputs>('SoftmaxCrossEntropy', ({ inputs, backend }) => crossEntropy(backend, inputs)),
  cudaKernel<GradInputs>('SoftmaxCrossEntropyGrad', ({ inputs, backend }) =>
    crossEntropyGrad(backend, inputs),
  ),
];
