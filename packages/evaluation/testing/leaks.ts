import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeEach } from 'vitest';

/** Fails every test of the enclosing block that ends with more or fewer tensors than it began with. */
export function failOnLeaks(): void {
  let tensors = 0;
  beforeEach(() => {
    tensors = tf.memory().numTensors;
  });
  afterEach(() => {
    const leaked = tf.memory().numTensors - tensors;
    if (leaked !== 0) throw new Error(`The test left ${leaked} tensors more than there were.`);
  });
}
