import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { trainingAdam } from '../workload.js';
import type { Peer } from './peer.js';
import { prepareTfjs } from './tfjs.js';

/** tfjs's wasm backend as it comes, but for the one kernel that training cannot do without. One thread in Node. */
export async function tfjsWasm(): Promise<Peer> {
  await tf.setBackend('wasm');
  await tf.ready();
  tf.registerKernel({
    kernelName: tf.UnsortedSegmentSum,
    backendName: 'wasm',
    kernelFunc: unsortedSegmentSum as unknown as tf.KernelFunc,
  });
  const prepare = prepareTfjs({
    transposedUp: true,
    optimizer: (params) => {
      const { learningRate, beta1, beta2, epsilon } = trainingAdam;
      const adam = tf.train.adam(learningRate, beta1, beta2, epsilon);
      return (gradients) =>
        adam.applyGradients(
          Array.from(params, ([name, { name: id }]) => ({
            name: id,
            tensor: gradients[name] as tf.Tensor,
          })),
        );
    },
  });
  return { about: { version: tf.version_core, threads: 1 }, prepare };
}

/** The gradient of gather, in plain JavaScript. */
function unsortedSegmentSum({
  inputs: { x, segmentIds },
  attrs: { numSegments },
  backend,
}: {
  inputs: { x: tf.TensorInfo; segmentIds: tf.TensorInfo };
  attrs: { numSegments: number };
  backend: {
    readSync: (dataId: tf.DataId) => Float32Array | Int32Array;
    makeOutput: (shape: number[], dtype: 'float32') => tf.TensorInfo;
    typedArrayFromHeap: (tensor: tf.TensorInfo) => Float32Array;
  };
}): tf.TensorInfo {
  const rest = x.shape.slice(segmentIds.shape.length);
  const width = tf.util.sizeFromShape(rest);
  const output = backend.makeOutput([numSegments, ...rest], 'float32');
  const sums = backend.typedArrayFromHeap(output).fill(0);
  const values = backend.readSync(x.dataId) as Float32Array;
  const ids = backend.readSync(segmentIds.dataId) as Int32Array;
  for (const [row, id] of ids.entries()) {
    for (let i = 0; i < width; i++) {
      const at = id * width + i;
      sums[at] = (sums[at] as number) + (values[row * width + i] as number);
    }
  }
  return output;
}
