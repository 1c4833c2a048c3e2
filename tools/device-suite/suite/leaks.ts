import { dynamicKExperts, packExperts, selectExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** What is left after some forward passes that was not there before them. */
export interface Left {
  tensors: number;
  /** On the GPU, where the backend counts them. */
  bytesOnGpu: number;
}

/** Runs selection and op so many times, each with packed experts that stay and an input and output that go. */
export async function leftAfter(passes: number): Promise<Left> {
  const normal = (rows: number, columns: number): tf.Tensor2D =>
    tf.randomNormal([rows, columns], 0, 1, 'float32', rows);
  const weights = { up: normal(64, 16), down: normal(64, 16), activation: 'gelu' as const };
  const experts = packExperts(weights, 8);
  const pass = async () => {
    const output = tf.tidy(() => {
      const selection = selectExperts(tf.abs(normal(5, 8)), { rule: 'threshold', value: 0.5 });
      return dynamicKExperts(normal(5, 16), selection, experts);
    });
    await output.data();
    output.dispose();
  };
  // What is kept for use again is there after a few.
  for (let i = 0; i < 10; i++) await pass();
  const before = memory();
  for (let i = 0; i < passes; i++) await pass();
  const after = memory();
  experts.dispose();
  tf.dispose([weights.up, weights.down]);
  return {
    tensors: after.tensors - before.tensors,
    bytesOnGpu: after.bytesOnGpu - before.bytesOnGpu,
  };
}

function memory(): Left {
  const { numTensors, ...rest } = tf.memory();
  return {
    tensors: numTensors,
    bytesOnGpu: (rest as { numBytesInGPU?: number }).numBytesInGPU ?? 0,
  };
}
