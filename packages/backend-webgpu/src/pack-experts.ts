import { D2DMoEError } from '@d2dmoe/core';
import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import {
  MOST_PARTS,
  PACK_THREADS,
  packWeightsSource,
  pitchOf,
  type WeightStorage,
} from '../../../kernels/webgpu/index.js';
import { encode } from './encode.js';
import type { PackAttrs } from './experts-call.js';
import { bindingBytesOf } from './limits.js';
import { checkAlive } from './lost.js';
import { bufferOf, type OpenBackend, openBackend } from './open-backend.js';

type Weights = Record<'up' | 'down', TensorInfo> &
  Partial<Record<'gate' | 'upBias' | 'gateBias' | 'downBias', TensorInfo>>;

const MOST_PACK_GROUPS = 4096;

/**
 * PackExperts of @d2dmoe/kernels: biases and the output's bias, then each part's up, gate (of a gated FFN) and down.
 * Rows begin at a vec4. Where a matrix is larger than a kernel may see of a buffer, its experts are split into parts.
 */
export const packExpertsKernel: KernelConfig = {
  kernelName: 'PackExperts',
  backendName: 'webgpu',
  kernelFunc: ({ inputs, attrs, backend: untyped }) => {
    const backend = openBackend(untyped);
    checkAlive(backend.device);
    const { up, gate, down, upBias, gateBias, downBias } = inputs as unknown as Weights;
    const { expertSize, storage } = attrs as unknown as PackAttrs;
    if (storage !== 'float32' && storage !== 'float16') {
      throw new D2DMoEError(
        'STORAGE_UNSUPPORTED',
        `The webgpu backend stores packed experts as float32 or float16, not ${storage}.`,
      );
    }
    const [hidden = 0, dIn = 0] = up.shape;
    const [, dOut = 0] = down.shape;
    const experts = hidden / expertSize;
    const partExperts = expertsOfPart(backend, { dIn, dOut, experts, expertSize, storage });
    const packed = [
      joined(backend, [gate ? 2 : 1, hidden], gate ? [upBias, gateBias] : [upBias]),
      joined(backend, [pitchOf(dOut)], [downBias]),
    ];
    for (let first = 0; first < experts; first += partExperts) {
      const rows = Math.min(partExperts, experts - first) * expertSize;
      for (const matrix of [up, ...(gate ? [gate] : []), down]) {
        packed.push(packRows(backend, matrix, first * expertSize, rows, storage));
      }
    }
    return packed;
  },
};

function expertsOfPart(
  { device }: OpenBackend,
  shape: {
    dIn: number;
    dOut: number;
    experts: number;
    expertSize: number;
    storage: WeightStorage;
  },
): number {
  const { dIn, dOut, experts, expertSize, storage } = shape;
  const bytes = storage === 'float16' ? 2 : 4;
  const bytesOfExpert = expertSize * pitchOf(Math.max(dIn, dOut)) * bytes;
  const limit = bindingBytesOf(device);
  const count = Math.min(experts, Math.floor(limit / bytesOfExpert));
  if (count === 0 || experts / count > MOST_PARTS) {
    throw new D2DMoEError(
      'WEBGPU_TOO_SMALL',
      `This adapter's kernels see ${limit} bytes of a buffer at most, too little for experts of ${bytesOfExpert} bytes each: use smaller experts, another adapter, or another backend.`,
    );
  }
  return count;
}

/** Vectors one after the other in a new float32 tensor, zeros where there is none and behind them. */
function joined(
  backend: OpenBackend,
  shape: number[],
  vectors: (TensorInfo | undefined)[],
): TensorInfo {
  const tensor = backend.makeTensorInfo(shape, 'float32');
  const target = bufferOf(backend, tensor);
  const sources = vectors.map((vector) => vector && bufferOf(backend, vector));
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  backend.commandQueueOwnedIds.add(tensor.dataId);
  for (const vector of vectors) if (vector) backend.commandQueueOwnedIds.add(vector.dataId);
  const encoder = backend.commandEncoder as GPUCommandEncoder;
  encoder.clearBuffer(target);
  for (const [index, source] of sources.entries()) {
    const width = (vectors[index]?.shape[0] ?? 0) * 4;
    if (source) encoder.copyBufferToBuffer(source, 0, target, index * width, width);
  }
  return tensor;
}

/** Rows of a matrix in the storage's form. Where that is the form that they have, the tensor shares their buffer. */
function packRows(
  backend: OpenBackend,
  matrix: TensorInfo,
  first: number,
  rows: number,
  storage: WeightStorage,
): TensorInfo {
  const [all = 0, width = 0] = matrix.shape;
  const pitch = pitchOf(width);
  if (storage === 'float32' && pitch === width && rows === all) {
    bufferOf(backend, matrix);
    backend.incRef(matrix.dataId);
    return { dataId: matrix.dataId, shape: matrix.shape, dtype: matrix.dtype };
  }
  const tensor =
    storage === 'float16'
      ? backend.makeTensorInfo([rows, pitch / 2], 'int32')
      : backend.makeTensorInfo([rows, pitch], 'float32');
  encode(backend, 'PackExperts', [matrix, tensor], (encoder) => {
    const limit = bindingBytesOf(backend.device);
    const packedRow = tensorBytes(tensor) / rows;
    // Rows that begin where a binding may, in both buffers.
    const step = Math.max(64, Math.floor((limit / (pitch * 4) - 64) / 64) * 64);
    for (let done = 0; done < rows; done += step) {
      const count = Math.min(step, rows - done);
      const start = (first + done) * width * 4;
      const offset = Math.floor(start / 256) * 256;
      const size = start - offset + count * width * 4;
      const params = [(start - offset) / 4, count, 0, 0];
      encoder.dispatch(
        packWeightsSource(width, storage),
        [
          { buffer: bufferOf(backend, matrix), offset, size },
          {
            buffer: bufferOf(backend, tensor),
            offset: done * packedRow,
            size: count * packedRow,
          },
          encoder.uniform(params.join(' '), () => Uint32Array.from(params).buffer),
        ],
        [Math.min(MOST_PACK_GROUPS, Math.ceil((count * pitch) / 4 / PACK_THREADS))],
      );
    }
  });
  return tensor;
}

function tensorBytes({ shape }: TensorInfo): number {
  return shape.reduce((product, size) => product * size, 4);
}
