import type * as tf from '@tensorflow/tfjs-core';
import { DynamicKExperts, type DynamicKExpertsAttrs } from '../dynamic-k-experts.js';
import type { Activation } from '../types.js';
import { partsFor } from './parts.js';
import type { WasmContext } from './module.js';

/** The numbers by which kernels/wasm/activation.ts knows them. */
const activations: Record<Activation, number> = { relu: 0, gelu: 1, gelu_tanh: 2, silu: 3 };

type Inputs = Record<'x' | 'selection' | 'packed0' | 'packed1' | 'packed2', tf.TensorInfo> & {
  packed3?: tf.TensorInfo;
};

/** Runs selected experts only, on weights that the PackExperts kernel laid out. */
export function dynamicKExpertsKernel({ backend, kernels, pool, pointer }: WasmContext) {
  return {
    kernelName: DynamicKExperts,
    kernelFunc: ({ inputs, attrs }: { inputs: Inputs; attrs: DynamicKExpertsAttrs }) => {
      const { x, selection, packed0: vectors, packed1: up, packed2: down, packed3: gate } = inputs;
      const { activation, expertSize, dOut, storage } = attrs;
      const [rows, dIn] = x.shape as [number, number];
      const experts = selection.shape[1] as number;
      const hidden = experts * expertSize;
      const int8 = storage === 'int8' ? 1 : 0;
      const out = backend.makeOutput([rows, dOut], 'float32');
      const temporaries: tf.TensorInfo[] = [];
      const allocate = (size: number): number => {
        const tensor = backend.makeOutput([size], 'float32');
        temporaries.push(tensor);
        return pointer(tensor);
      };
      const starts = allocate(experts + 1);
      const pairs = kernels.expertCounts(pointer(selection), rows, experts, starts);
      const list = allocate(pairs);
      kernels.expertRows(pointer(selection), rows, experts, starts, list);
      const activated = allocate(pairs * expertSize);
      const scratch = allocate(pool.threads * kernels.expertScratch(dIn, expertSize, int8));
      const projections = gate ? 2 : 1;
      pool.run(
        'expertHidden',
        [
          pointer(x),
          pointer(up),
          gate ? pointer(gate) : 0,
          pointer(vectors),
          starts,
          list,
          activated,
          dIn,
          hidden,
          expertSize,
          activations[activation],
          int8,
          scratch,
        ],
        partsFor(pairs * expertSize * dIn * projections, pool.threads),
      );
      pool.run(
        'expertOutput',
        [
          activated,
          pointer(down),
          pointer(vectors) + 5 * hidden * 4,
          starts,
          list,
          pointer(out),
          rows,
          dIn,
          dOut,
          experts,
          expertSize,
          int8,
          scratch,
        ],
        partsFor(pairs * expertSize * dOut, pool.threads),
      );
      for (const { dataId } of temporaries) backend.disposeData(dataId);
      return out;
    },
  };
}
