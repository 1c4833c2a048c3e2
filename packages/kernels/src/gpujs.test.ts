import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { registerGpuJs } from './gpujs.js';

// That it is right is seen in Chromium, by tools/device-suite.
test('in a page, gpu.js is for the webgl backend', async () => {
  await tf.setBackend('cpu');
  expect(registerGpuJs).toThrow(expect.objectContaining({ code: 'BACKEND_MISMATCH' }));
});
