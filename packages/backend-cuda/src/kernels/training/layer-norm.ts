import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { cudaKernel } from '../config.js';
import { withScratch } from '../run.js';
import { finishColumnSum } from './column-sum.js';

interface Attributes {
  epsilon: number;
  centred: boolean;
}

/** The widest rows that a kernel takes: those of a warp up to 1,024, of a block above. */
const WIDTHS = [256, 512, 1024, 4096] as const;
type Width = (typeof WIDTHS)[number];

function byWidth(widths: readonly Width[], make: (width: Width) => Kernel): Map<Width, Kernel> {
  return new Map(widths.map((width) => [width, make(width)]));
}

const SIGNATURE = 'p p p p p i i f i';
const forward = {
  f32: byWidth(WIDTHS, (width) => kernel('layer-norm', `layer_norm_f32_${width}`, SIGNATURE)),
  bf16: byWidth(WIDTHS, (width) => kernel('layer-norm', `layer_norm_bf16_${width}`, SIGNATURE)),
};
const forwardAny = kernel('layer-norm', 'layer_norm_f32_any', SIGNATURE);
const GRAD_SIGNATURE = 'p p p p p i i f i';
const GRAD_WIDTHS = WIDTHS.slice(0, 3);
const backward = {
  f32: byWidth(GRAD_WIDTHS, (width) =>
    kernel('layer-norm', `layer_norm_grad_f32_f32_${width}`, GRAD_SIGNATURE),
  ),
  bf16: byWidth(GRAD_WIDTHS, (width) =>
    kernel('layer-norm', `layer_norm_grad_f32_bf16_${width}`, GRAD_SIGNATURE),
  ),
};
const backwardAny = kernel('layer-norm', 'layer_norm_grad_f32_any', GRAD_SIGNATURE);
const columns = kernel('layer-norm', 'layer_norm_grad_columns', 'p p p p i i');

/** The kernel for rows of d, or none where only the plain one fits. */
function fitting(kernels: ReadonlyMap<Width, Kernel>, d: number): [Width, Kernel] | undefined {
  if (d % 4 !== 0) return undefined;
  for (const entry of kernels) if (d <= entry[0]) return entry;
  return undefined;
}

interface Inputs {
  x: TensorInfo;
  scale: TensorInfo;
  shift?: TensorInfo;
}

/** x [..., d] → [..., d], float32; where products read bf16, which follow most norms, in that form as well. */
function layerNorm(
  backend: CudaBackend,
  { x, scale, shift }: Inputs,
  { epsilon, centred }: Attributes,
): TensorInfo {
  const d = x.shape.at(-1) as number;
  const rows = util.sizeFromShape(x.shape) / d;
  const out = backend.output(x.shape, 'float32');
  if (out.shape.includes(0)) return out;
  const half = backend.isOnly16(x);
  const chosen = fitting(half ? forward.bf16 : forward.f32, d);
  const [width, run] = chosen ?? [Number.POSITIVE_INFINITY, forwardAny];
  backend.launch(run, width <= 1024 ? Math.ceil(rows / 8) : rows, 256, [
    half && chosen ? backend.pointer16(x) : backend.pointer(x),
    backend.pointer(scale),
    shift ? backend.pointer(shift) : 0,
    out.pointer,
    backend.precision === 'bf16' ? backend.form16(out) : 0,
    rows,
    d,
    epsilon,
    centred ? 1 : 0,
  ]);
  return out;
}

/** [dx, dscale], and dshift where centred. */
function layerNormGrad(
  backend: CudaBackend,
  { x, scale, dy }: { x: TensorInfo; scale: TensorInfo; dy: TensorInfo },
  { epsilon, centred }: Attributes,
): TensorInfo[] {
  const d = x.shape.at(-1) as number;
  const rows = util.sizeFromShape(x.shape) / d;
  const dx = backend.output(x.shape, 'float32');
  const dscale = backend.output([d], 'float32');
  const dshift = centred ? backend.output([d], 'float32') : undefined;
  const outputs = dshift ? [dx, dscale, dshift] : [dx, dscale];
  if (d === 0) return outputs;
  const half = backend.isOnly16(dy);
  const chosen = fitting(half ? backward.bf16 : backward.f32, d);
  const attributes = [rows, d, epsilon, centred ? 1 : 0];
  const inputs = [
    backend.pointer(x),
    backend.pointer(scale),
    half && chosen ? backend.pointer16(dy) : backend.pointer(dy),
  ];
  const chunks = Math.min(Math.ceil(rows / 8), chosen ? backend.device.multiprocessors * 2 : 64);
  withScratch(backend, chunks * 2 * d * 4, (partial) => {
    if (chosen) {
      backend.launch(chosen[1], chunks, 256, [...inputs, dx.pointer, partial, ...attributes]);
    } else {
      withScratch(backend, rows * 2 * 4, (statistics) => {
        const args = [...inputs, dx.pointer, statistics, ...attributes];
        backend.launch(backwardAny, rows, 256, args);
        const grid = [Math.ceil(d / 32), chunks, 1] as const;
        const pointers = [backend.pointer(x), backend.pointer(dy), statistics, partial];
        backend.launch(columns, grid, 256, [...pointers, rows, d]);
      });
    }
    finishColumnSum(backend, { partial, chunks, columns: 2 * d }, dscale.pointer, {
      pointer: dshift?.pointer ?? 0,
      from: d,
    });
  });
  return outputs;
}

/** Layer norm and RMS norm over the last axis, and their gradient. */
export const layerNormKernels: KernelConfig[] = [
  cudaKernel<Inputs, Attributes>('LayerNorm', ({ inputs, attrs, backend }) =>
    layerNorm(backend, inputs, attrs),
  ),
  cudaKernel<{ x: TensorInfo; scale: TensorInfo; dy: TensorInfo }, Attributes>(
    'LayerNormGrad',
    ({ inputs, attrs, backend }) => layerNormGrad(backend, inputs, attrs),
  ),
];
