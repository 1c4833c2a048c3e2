import { dynamicKExperts, packExperts, predictNorms, selectExperts } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';

/** The example of the kernels' README on the current backend: the sum of |all experts − the dense FFN|, and the shape. */
export async function example() {
  const [dModel, hidden, expertSize, width] = [16, 64, 8, 12];
  const random = (rows, columns) => tf.randomNormal([rows, columns]);
  const ffn = {
    up: random(hidden, dModel),
    down: random(hidden, dModel),
    activation: 'relu',
  };
  const experts = packExperts(ffn, expertSize);
  const router = { hidden: random(width, dModel), output: random(experts.experts, width) };
  const x = random(5, dModel);
  const selection = selectExperts(predictNorms(x, router), { rule: 'threshold', value: 0.5 });
  const output = dynamicKExperts(x, selection, experts);
  const values = await output.data();
  if (!values.every(Number.isFinite)) throw new Error('the output is not finite');
  const selected = (await tf.sum(tf.cast(selection, 'float32')).data())[0];
  return { backend: tf.getBackend(), shape: output.shape, selected };
}
