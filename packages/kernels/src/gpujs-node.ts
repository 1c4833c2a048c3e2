import '@tensorflow/tfjs-backend-cpu';
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import { D2DMoEError } from '@d2dmoe/core';
import { DynamicKExperts, type DynamicKExpertsAttrs } from './dynamic-k-experts.js';
import { GpuJsCaller } from './gpujs/caller.js';
import { packForGpuJs } from './gpujs/pack.js';
import type { GpuJsMode } from './gpujs/protocol.js';
import { replaceKernel } from './gpujs/replace-kernel.js';
import { PackExperts, type PackExpertsAttrs } from './pack-experts.js';
import type { FeedForwardWeights } from './types.js';

export type { GpuJsMode } from './gpujs/protocol.js';

/** What has been registered: its thread, and the packed experts that it holds, by the values of their tensor. */
interface Registered {
  caller: GpuJsCaller;
  ids: WeakMap<object, number>;
  /** How gpu.js ran last. */
  executor: string | undefined;
}

let registered: Registered | undefined;

/**
 * Makes tfjs's cpu backend the current one in Node and has gpu.js run the expert op on it: WebAssembly with SIMD and
 * worker threads of its own. gpu.js answers with a promise; a thread of ours awaits it while the calling thread waits
 * for that, so the op's result is an ordinary tensor. Only selected experts are computed. Everything else stays on
 * tfjs's cpu backend.
 *
 * Called again, it starts gpu.js anew, and experts have to be packed again.
 *
 * @param options.mode `async`, the default, is the best that gpu.js finds, which in Node is `webasm`; `cpu` is plain
 *   JavaScript
 * @returns `executor()`: how gpu.js ran last, such as `webasm, fused-threaded`; undefined before the first time
 * @throws D2DMoEError `GPUJS_UNAVAILABLE` where gpu.js is not installed
 */
export async function useGpuJs({
  mode = 'async',
}: {
  mode?: GpuJsMode;
} = {}): Promise<{ executor: () => string | undefined }> {
  const caller = await GpuJsCaller.start(mode);
  // Without it tfjs advertises another backend on standard error.
  tf.enableProdMode();
  await tf.setBackend('cpu');
  await registered?.caller.dispose();
  const context: Registered = { caller, ids: new WeakMap(), executor: undefined };
  registered = context;
  registerKernels(context);
  return { executor: () => context.executor };
}

type Weights = Omit<FeedForwardWeights, 'activation'>;
type Inputs = Record<'x' | 'selection' | 'packed0', TensorInfo>;
let nextId = 0;

function registerKernels(context: Registered): void {
  const { caller, ids } = context;
  const released = new FinalizationRegistry<number>((id) => caller.post({ type: 'release', id }));

  replaceKernel(PackExperts, 'cpu', pack);
  replaceKernel(DynamicKExperts, 'cpu', run);

  /** gpu.js's thread holds the weights; of them the tensor is a handle. */
  function pack({ inputs, attrs }: { inputs: Weights; attrs: PackExpertsAttrs }): TensorInfo[] {
    const [hidden, dIn] = inputs.up.shape;
    const weights = tf.tidy(() =>
      Object.fromEntries(
        Object.entries(packForGpuJs(inputs, attrs)).map(
          ([name, tensor]): [string, Float32Array] => [
            name,
            shared((tensor as Tensor).dataSync<'float32'>()),
          ],
        ),
      ),
    );
    const handle = new Int32Array(1);
    const id = nextId++;
    ids.set(handle, id);
    released.register(handle, id);
    caller.call({
      type: 'pack',
      id,
      experts: {
        dIn,
        dOut: inputs.down.shape[1],
        experts: hidden / attrs.expertSize,
        expertSize: attrs.expertSize,
        gated: inputs.gate !== undefined,
        weights,
      },
    });
    return [backend().makeTensorInfo([1], 'int32', handle)];
  }

  function run({ inputs, attrs }: { inputs: Inputs; attrs: DynamicKExpertsAttrs }): TensorInfo {
    const { x, selection, packed0 } = inputs;
    const rows = x.shape[0] as number;
    const id = ids.get(valuesOf(packed0));
    if (id === undefined) {
      throw new D2DMoEError(
        'BACKEND_MISMATCH',
        'The experts were packed before gpu.js was started: pack them again.',
      );
    }
    const output = shared(rows * attrs.dOut);
    if (rows > 0) {
      context.executor = caller.call({
        type: 'run',
        id,
        activation: attrs.activation,
        rows,
        x: shared(valuesOf(x)),
        selection: shared(valuesOf(selection)),
        output,
      });
    }
    return backend().makeTensorInfo([rows, attrs.dOut], 'float32', output.slice());
  }
}

function backend(): MathBackendCPU {
  return tf.backend() as MathBackendCPU;
}

function valuesOf({ dataId }: TensorInfo): ArrayLike<number> {
  return backend().data.get(dataId).values as unknown as ArrayLike<number>;
}

/** Floats in memory that both threads see: a copy of values, or room for a number of them. */
function shared(values: number | ArrayLike<number>): Float32Array {
  const length = typeof values === 'number' ? values : values.length;
  const array = new Float32Array(new SharedArrayBuffer(4 * length));
  if (typeof values !== 'number') array.set(values);
  return array;
}
