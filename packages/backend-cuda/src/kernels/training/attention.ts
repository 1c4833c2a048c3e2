import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../../backend.js';
import { type Kernel, kernel } from '../../launch.js';
import { cudaKernel } from '../config.js';
import { formsIn } from '../forms.js';
import { withScratch } from '../run.js';

interface Attributes {
  batch: number;
  heads: number;
  kvHeads: number;
  scale: number;
  causal: boolean;
}

/** q [B·T, heads·headDim] with k and v in rows or by head, or all three side by side in the rows of qkv. */
interface Inputs {
  q?: TensorInfo;
  k?: TensorInfo;
  v?: TensorInfo;
  qkv?: TensorInfo;
  /** [B, keys] int32 */
  padding?: TensorInfo;
}

interface GradInputs extends Inputs {
  out: TensorInfo;
  logSum: TensorInfo;
  dy: TensorInfo;
}

/** Elements from one sequence, one position, one head to the next. */
type Strides = readonly [batch: number, row: number, head: number];

interface Layout {
  queries: number;
  keys: number;
  headDim: number;
  q: Strides;
  kv: Strides;
  o: Strides;
}

/** How the tensors lie. */
function layoutOf({ q, k, qkv }: Inputs, { batch, heads, kvHeads }: Attributes): Layout {
  const source = (qkv ?? q) as TensorInfo;
  const [rows, width] = source.shape as [number, number];
  const headDim = width / (qkv ? heads + 2 * kvHeads : heads);
  const queries = rows / batch;
  const inRows = (positions: number, row: number): Strides => [positions * row, row, headDim];
  const o = inRows(queries, heads * headDim);
  const common = { queries, headDim, q: inRows(queries, width), o };
  if (k === undefined) return { ...common, keys: queries, kv: common.q };
  if (k.shape.length === 4) {
    const keys = k.shape[2] as number;
    return { ...common, keys, kv: [kvHeads * keys * headDim, headDim, keys * headDim] };
  }
  const [kRows, kWidth] = k.shape as [number, number];
  const keys = kRows / batch;
  return { ...common, keys, kv: inRows(keys, kWidth) };
}

/** The kernels for heads of up to `width` in one storage. */
interface Family {
  forward: Kernel;
  gradQueries: Kernel;
  gradKeys: Kernel;
  delta: Kernel;
  /** Queries, or keys, of a block. */
  tile: { forward: number; grad: number };
  threads: number;
  /** Dynamic shared memory of a block, bytes. */
  shared: { forward: number; grad: number };
}

const SIGNATURE = 'p p p p p p i*15 f';
const GRAD_QUERIES = 'p p p p p p p p i*15 f';
const GRAD_KEYS = 'p p p p p p p p p i*15 f';

function family(storage: 'f32' | 'bf16', width: number): Family {
  const module = storage === 'f32' ? 'attention' : 'attention-bf16';
  const kernels = {
    forward: kernel(module, `attention_${storage}_${width}`, SIGNATURE),
    gradQueries: kernel(module, `attention_grad_queries_${storage}_${width}`, GRAD_QUERIES),
    gradKeys: kernel(module, `attention_grad_keys_${storage}_${width}`, GRAD_KEYS),
    delta: kernel(module, `attention_delta_${storage}`, 'p p p i*15 i'),
  };
  if (storage === 'f32') {
    const pitch = width + 4;
    return {
      ...kernels,
      tile: { forward: 64, grad: 32 },
      threads: 256,
      shared: {
        forward: (2 * 64 * pitch + 64 * 68) * 4,
        grad: (4 * 32 * pitch + 2 * 32 * 36) * 4,
      },
    };
  }
  const pitch = width + 8;
  const other = width > 64 ? 32 : 64;
  return {
    ...kernels,
    tile: { forward: 64, grad: 64 },
    threads: 128,
    shared: { forward: (64 + 2 * other) * pitch * 2, grad: (128 + 2 * other) * pitch * 2 },
  };
}

const WIDTHS = [32, 64, 128];
const families = {
  f32: WIDTHS.map((width) => family('f32', width)),
  bf16: WIDTHS.map((width) => family('bf16', width)),
};

/** Which kernels run, and how they see and make tensors. */
function choose(backend: CudaBackend, headDim: number) {
  // Rows in 16 bits are read 16 bytes at a time.
  const half = backend.precision === 'bf16' && headDim % 8 === 0;
  const index = WIDTHS.findIndex((width) => headDim <= width);
  const kernels = families[half ? 'bf16' : 'f32'][index] as Family;
  return {
    kernels,
    bytes: half ? 2 : 4,
    ...formsIn(backend, half ? 'bf16' : undefined),
  };
}

/** The struct that every kernel takes. */
function shapeOf(layout: Layout, { heads, kvHeads, causal }: Attributes): number[] {
  const { queries, keys, headDim, q, kv, o } = layout;
  return [heads, heads / kvHeads, queries, keys, headDim, causal ? 1 : 0, ...q, ...kv, ...o];
}

/** Addresses of q, k and v, or of their gradients, from the tensors or from one that holds all three. */
function three(
  pointers: readonly number[],
  { heads, kvHeads }: Attributes,
  headDim: number,
  bytes: number,
): [number, number, number] {
  const [first = 0, second, third] = pointers;
  if (second !== undefined && third !== undefined) return [first, second, third];
  const k = first + heads * headDim * bytes;
  return [first, k, k + kvHeads * headDim * bytes];
}

function projections({ q, k, v, qkv }: Inputs): TensorInfo[] {
  return qkv ? [qkv] : ([q, k, v] as TensorInfo[]);
}

/** [out [B·T, heads·headDim], logSum [B, heads, T]] */
function attention(backend: CudaBackend, inputs: Inputs, attrs: Attributes): TensorInfo[] {
  const { batch, heads, scale } = attrs;
  const layout = layoutOf(inputs, attrs);
  const { queries, headDim } = layout;
  const { kernels, bytes, pointer, output } = choose(backend, headDim);
  const out = output([batch * queries, heads * headDim]);
  const logSum = backend.output([batch, heads, queries], 'float32');
  backend.launch(
    kernels.forward,
    [Math.ceil(queries / kernels.tile.forward), heads, batch],
    kernels.threads,
    [
      ...three(projections(inputs).map(pointer), attrs, headDim, bytes),
      inputs.padding ? backend.pointer(inputs.padding) : 0,
      out.pointer,
      logSum.pointer,
      shapeOf(layout, attrs),
      scale,
    ],
    kernels.shared.forward,
  );
  return [out, logSum];
}

/** The gradients of q, k and v, or of qkv. */
function attentionGrad(backend: CudaBackend, inputs: GradInputs, attrs: Attributes): TensorInfo[] {
  const { batch, heads, kvHeads, scale } = attrs;
  const layout = layoutOf(inputs, attrs);
  const { queries, keys, headDim } = layout;
  const { kernels, bytes, pointer, output } = choose(backend, headDim);
  const given = projections(inputs);
  const outputs = given.map(({ shape }) => output(shape));
  const shape = shapeOf(layout, attrs);
  const rows = batch * heads * queries;
  const dy = pointer(inputs.dy);
  withScratch(backend, rows * 4, (delta) => {
    const deltaArgs = [pointer(inputs.out), dy, delta, shape, rows];
    backend.launch(kernels.delta, Math.ceil(rows / 8), 256, deltaArgs);
    const common = [
      ...three(given.map(pointer), attrs, headDim, bytes),
      inputs.padding ? backend.pointer(inputs.padding) : 0,
      dy,
      backend.pointer(inputs.logSum),
      delta,
    ];
    const made = outputs.map((made) => made.pointer);
    const [dq, dk, dv] = three(made, attrs, headDim, bytes);
    const { grad: tile } = kernels.tile;
    backend.launch(
      kernels.gradQueries,
      [Math.ceil(queries / tile), heads, batch],
      kernels.threads,
      [...common, dq, shape, scale],
      kernels.shared.grad,
    );
    backend.launch(
      kernels.gradKeys,
      [Math.ceil(keys / tile), kvHeads, batch],
      kernels.threads,
      [...common, dk, dv, shape, scale],
      kernels.shared.grad,
    );
  });
  return outputs;
}

/** Attention without its matrix of scores, heads of up to 128, and its gradient. */
export const attentionKernels: KernelConfig[] = [
  cudaKernel<Inputs, Attributes>('Attention', ({ inputs, attrs, backend }) =>
    attention(backend, inputs, attrs),
  ),
  cudaKernel<GradInputs, Attributes>('AttentionGrad', ({ inputs, attrs, backend }) =>
    attentionGrad(backend, inputs, attrs),
  ),
];
