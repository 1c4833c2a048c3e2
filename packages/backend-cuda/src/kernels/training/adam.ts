import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { kernel } from '../../launch.js';
import { cudaKernel } from '../config.js';
import { withScratch } from '../run.js';

interface Attributes {
  /** Learning rate, with the corrections of both moments. */
  rate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
}

/** Tensors of one launch, and elements of one of its blocks. */
const TENSORS = 64;
const PIECE = 4096;

const squares = kernel(
  'adam',
  'gradient_squares',
  `p*${TENSORS} +l*${TENSORS} +i*${TENSORS} i p i`,
);
const clipping = kernel('adam', 'clipping_scale', 'p p i f');
const step = kernel('adam', 'adam_step', 'p p p p p p p f*6 f l');
const steps = kernel(
  'adam',
  'adam_steps',
  `p*${TENSORS} ${`+p*${TENSORS} `.repeat(4)} +l*${TENSORS} +i*${TENSORS} +f*${TENSORS} i p f*6`,
);

/** A launch over several tensors: the index of each, where its blocks begin, and how many blocks there are. */
interface Batch {
  members: number[];
  sizes: number[];
  starts: number[];
  blocks: number;
}

/** Deals tensors out to launches; empty ones take part in none. */
function batches(tensors: readonly TensorInfo[]): Batch[] {
  const all: Batch[] = [];
  for (const [index, { shape }] of tensors.entries()) {
    const size = util.sizeFromShape(shape);
    if (size === 0) continue;
    let batch = all.at(-1);
    if (batch === undefined || batch.members.length === TENSORS) {
      batch = { members: [], sizes: [], starts: [], blocks: 0 };
      all.push(batch);
    }
    batch.members.push(index);
    batch.sizes.push(size);
    batch.starts.push(batch.blocks);
    batch.blocks += Math.ceil(size / PIECE);
  }
  return all;
}

/** A struct's array with zeros behind its last value. */
function padded(values: readonly number[]): number[] {
  return Array.from({ length: TENSORS }, (_, i) => values[i] ?? 0);
}

/** The struct that the kernels take. */
function list({ rate, beta1, beta2, epsilon }: Attributes): number[] {
  return [rate, beta1, 1 - beta1, beta2, 1 - beta2, epsilon];
}

/** New values and moments of one parameter. */
function adamStep(
  backend: CudaBackend,
  inputs: Record<'param' | 'gradient' | 'first' | 'second', TensorInfo>,
  attrs: Attributes & { keep: number },
): TensorInfo[] {
  const { param, gradient, first, second } = inputs;
  const size = util.sizeFromShape(param.shape);
  const outputs = [param, first, second].map(({ shape }) => backend.output(shape, 'float32'));
  backend.launch(step, backend.blocks(size), 256, [
    ...[param, gradient, first, second].map((t) => backend.pointer(t)),
    ...outputs.map(({ pointer }) => pointer),
    list(attrs),
    attrs.keep,
    size,
  ]);
  return outputs;
}

/**
 * Updates parameters and moments where they lie.
 *
 * @param inputs For each parameter: itself, its gradient, its first and its second moment; behind them, where there is
 *   one, the scalar that multiplies the gradients.
 */
function adamSteps(
  backend: CudaBackend,
  inputs: readonly TensorInfo[],
  attrs: Attributes & { keep: readonly number[] },
): TensorInfo[] {
  const count = attrs.keep.length;
  const every = (offset: number) =>
    Array.from({ length: count }, (_, i) => inputs[4 * i + offset] as TensorInfo);
  const [params, gradients, first, second] = [every(0), every(1), every(2), every(3)];
  const scale = inputs[4 * count];
  const scalePointer = scale ? backend.pointer(scale) : 0;
  for (const { members, sizes, starts, blocks } of batches(params)) {
    const pick = (tensors: readonly TensorInfo[]) => members.map((i) => tensors[i] as TensorInfo);
    const mutable = (tensors: readonly TensorInfo[]) =>
      padded(pick(tensors).map((t) => backend.mutablePointer(t)));
    // mutablePointer drops the bf16 forms: those that products have asked for are written anew.
    const halves = pick(params).map((t) => backend.has16(t));
    const paramPointers = mutable(params);
    backend.launch(steps, blocks, 256, [
      paramPointers,
      padded(pick(gradients).map((t) => backend.pointer(t))),
      mutable(first),
      mutable(second),
      padded(pick(params).map((t, i) => (halves[i] ? backend.form16(t) : 0))),
      padded(sizes),
      padded(starts),
      padded(members.map((i) => attrs.keep[i] as number)),
      members.length,
      scalePointer,
      list(attrs),
    ]);
  }
  return [];
}

/** The factor by which gradients are clipped to a common norm of `maxNorm`, a scalar. */
function clippingScale(
  backend: CudaBackend,
  gradients: readonly TensorInfo[],
  maxNorm: number,
): TensorInfo {
  const out = backend.output([], 'float32');
  const all = batches(gradients);
  const total = all.reduce((sum, { blocks }) => sum + blocks, 0);
  withScratch(backend, total * 4, (partial) => {
    let offset = 0;
    for (const { members, sizes, starts, blocks } of all) {
      const pointers = members.map((i) => backend.pointer(gradients[i] as TensorInfo));
      const args = [padded(pointers), padded(sizes), padded(starts), members.length];
      backend.launch(squares, blocks, 256, [...args, partial, offset]);
      offset += blocks;
    }
    backend.launch(clipping, 1, 1024, [partial, out.pointer, total, maxNorm]);
  });
  return out;
}

/** Adam's steps, and the clipping of gradients by their common norm. */
export const adamKernels: KernelConfig[] = [
  cudaKernel<
    Record<'param' | 'gradient' | 'first' | 'second', TensorInfo>,
    Attributes & { keep: number }
  >('AdamStep', ({ inputs, attrs, backend }) => adamStep(backend, inputs, attrs)),
  cudaKernel<readonly TensorInfo[], Attributes & { keep: readonly number[] }>(
    'AdamSteps',
    ({ inputs, attrs, backend }) => adamSteps(backend, inputs, attrs),
  ),
  cudaKernel<readonly TensorInfo[], { maxNorm: number }>(
    'ClippingScale',
    ({ inputs, attrs, backend }) => clippingScale(backend, inputs, attrs.maxNorm),
  ),
];
