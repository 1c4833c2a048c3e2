import { dynamicKExperts, packExperts, predictNorms, selectExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** The example of the kernels' README on the current backend: the sum of |all experts − the dense FFN|, and the shape. */
export async function example(): Promise<{ backend: string; shape: number[]; selected: number }> {
  const [dModel, hidden, expertSize, width] = [16, 64, 8, 12];
  const random = (rows: number, columns: number): tf.Tensor2D => tf.randomNormal([rows, columns]);
  const ffn = {
    up: random(hidden, dModel),
    down: random(hidden, dModel),
    activation: 'relu' as const,
  };
  const experts = packExperts(ffn, expertSize);
  const router = { hidden: random(width, dModel), output: random(experts.experts, width) };
  const x = random(5, dModel);
  const selection = selectExperts(predictNorms(x, router), { rule: 'threshold', value: 0.5 });
  const output = dynamicKExperts(x, selection, experts);
  const values = await output.data();
  if (!values.every(Number.isFinite)) throw new Error('the output is not finite');
  const selected = (await tf.sum(tf.cast(selection, 'float32')).data())[0] as number;
  return { backend: tf.getBackend(), shape: output.shape, selected };
}
