import '@tensorflow/tfjs-layers'; // registers tfjs's gradients
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { useWasm } from '../src/node.js';

/**
 * What the expert op's tests run on. The last one leaves its kernels registered, so a file goes through them once, in
 * this order.
 */
export const backends: [name: string, use: () => Promise<unknown>][] = [
  ['cpu', () => tf.setBackend('cpu')],
  ['wasm as tfjs ships it', () => tf.setBackend('wasm')],
  ['wasm with this package’s kernels', () => useWasm()],
];
