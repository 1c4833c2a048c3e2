import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { ExpertsAttrs, ExpertsCall, Part } from './experts-call.js';
import { fewRows, MOST_FEW_ROWS } from './few-rows.js';
import { bindingBytesOf } from './limits.js';
import { manyRows } from './many-rows.js';
import { checkAlive } from './lost.js';
import { openBackend } from './open-backend.js';

/** What PackExperts made, in its order. */
type Inputs = Record<'x' | 'selection' | `packed${number}`, TensorInfo>;

/** Reads the op's inputs: biases, downBias, then every part's up, gate where gated, and down. */
export function callOf(inputs: Inputs, attrs: ExpertsAttrs): ExpertsCall {
  const { x, selection } = inputs;
  const [rows = 0, dIn = 0] = x.shape;
  const experts = selection.shape[1] ?? 0;
  const packed = Object.keys(inputs)
    .filter((name) => name.startsWith('packed'))
    .map((_, index) => inputs[`packed${index}`]);
  const [biases, downBias, ...weights] = packed as [TensorInfo, TensorInfo, ...TensorInfo[]];
  const gated = biases.shape[0] === 2;
  const matrices = gated ? 3 : 2;
  const { activation, expertSize, dOut, storage, expectedDensity = 0.5 } = attrs;
  const parts: Part[] = [];
  for (let i = 0, firstExpert = 0; i < weights.length; i += matrices) {
    const up = weights[i] as TensorInfo;
    const count = (up.shape[0] as number) / expertSize;
    const gate = weights[i + 1] as TensorInfo;
    const down = weights[i + matrices - 1] as TensorInfo;
    parts.push({ firstExpert, experts: count, up, down, ...(gated && { gate }) });
    firstExpert += count;
  }
  return {
    shape: { dIn, dOut, experts, expertSize, activation, gated, storage },
    rows,
    x,
    selection,
    biases,
    downBias,
    parts,
    partExperts: parts[0]?.experts ?? 0,
    // What is no share is no expectation.
    density: expectedDensity >= 0 && expectedDensity <= 1 ? expectedDensity : 0.5,
  };
}

/** DynamicKExperts of @d2dmoe/kernels. */
export const dynamicKExpertsKernel: KernelConfig = {
  kernelName: 'DynamicKExperts',
  backendName: 'webgpu',
  kernelFunc: ({ inputs, attrs, backend: untyped }) => {
    const backend = openBackend(untyped);
    checkAlive(backend.device);
    const call = callOf(inputs as unknown as Inputs, attrs as unknown as ExpertsAttrs);
    const { rows, shape } = call;
    if (rows === 0) return backend.makeTensorInfo([0, shape.dOut], 'float32', new Float32Array());
    const out = backend.makeTensorInfo([rows, shape.dOut], 'float32');
    if (rows <= MOST_FEW_ROWS) fewRows(backend, call, out);
    else manyRows(backend, call, out, bindingBytesOf(backend.device));
    return out;
  },
};
