import { D2DMoEError } from '@d2dmoe/core';
import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from '../kernels/config.js';
import { kernel } from '../launch.js';
import { pitchOf, type Storage, STORAGES, WEIGHT_BYTES } from './call.js';

const packKernel = (name: string) => kernel('experts-pack', `experts_pack_${name}`, 'p p p l i i');
const kernels: Record<Storage, ReturnType<typeof packKernel>> = {
  float32: packKernel('f32'),
  float16: packKernel('f16'),
  bfloat16: packKernel('bf16'),
  int8: packKernel('int8'),
};

type Weights = Record<'up' | 'down', TensorInfo> &
  Partial<Record<'gate' | 'upBias' | 'gateBias' | 'downBias', TensorInfo>>;

/** Where the vectors begin, in numbers, in the one tensor that holds them all. */
export function vectorOffsets(hidden: number) {
  return { upBias: 0, gateBias: hidden, scales: 2 * hidden, downBias: 5 * hidden };
}

/** A matrix's rows in a storage, each padded to 16 bytes; `scales` is where int8 puts one for each. */
export function packRows(
  backend: CudaBackend,
  matrix: TensorInfo,
  storage: Storage,
  scales = 0,
): TensorInfo {
  const [rows = 0, width = 0] = matrix.shape;
  const pitch = pitchOf(width, storage);
  const out = backend.output([(rows * pitch * WEIGHT_BYTES[storage]) / 4], 'int32');
  backend.launch(kernels[storage], Math.min(Math.ceil(rows / 8), 65535), 256, [
    backend.pointer(matrix),
    out.pointer,
    scales,
    rows,
    width,
    pitch,
  ]);
  return out;
}

/**
 * Lays an FFN out for the expert op: [vectors, state, up, down], and gate for a gated one. `vectors` holds the biases,
 * zeros where there are none, and int8's scales; matrices are their bytes as int32.
 */
function packExperts(
  backend: CudaBackend,
  { up, gate, down, upBias, gateBias, downBias }: Weights,
  storage: Storage,
): TensorInfo[] {
  if (!STORAGES.includes(storage)) {
    throw new D2DMoEError(
      'STORAGE_UNSUPPORTED',
      `The cuda backend has no packed experts in ${storage}: use ${STORAGES.join(', ')}.`,
    );
  }
  const [hidden = 0] = up.shape;
  const [, dOut = 0] = down.shape;
  const offsets = vectorOffsets(hidden);
  const vectors = backend.output([5 * hidden + dOut], 'float32');
  backend.memset(vectors.pointer, (5 * hidden + dOut) * 4);
  const at = (offset: number) => vectors.pointer + offset * 4;
  for (const [bias, offset] of [
    [upBias, offsets.upBias],
    [gateBias, offsets.gateBias],
    [downBias, offsets.downBias],
  ] as const) {
    if (bias) backend.copy(at(offset), backend.pointer(bias), (bias.shape[0] ?? 0) * 4);
  }
  const state = backend.output([4], 'int32');
  const packed = [
    vectors,
    state,
    packRows(backend, up, storage, at(offsets.scales)),
    packRows(backend, down, storage, at(offsets.scales + 2 * hidden)),
  ];
  if (gate) packed.push(packRows(backend, gate, storage, at(offsets.scales + hidden)));
  // Last, since a kernel that may begin before the kernel before it is over must not read weights that are being packed.
  backend.memset(state.pointer, 16);
  return packed;
}

/** PackExperts of packages/kernels. */
export const packKernels: KernelConfig[] = [
  cudaKernel<Weights, { expertSize: number; storage: Storage }>(
    'PackExperts',
    ({ inputs, attrs, backend }) => packExperts(backend, inputs, attrs.storage),
  ),
];
