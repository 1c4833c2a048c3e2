import '@tensorflow/tfjs-backend-cpu';
import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { deviceNames, listDevices, registerDevice, useDevice } from './device.js';

// Each test registers what the later ones see.

test('auto is the first that starts, in the order of this environment', async () => {
  expect(deviceNames()).toEqual(['cuda', 'webgpu', 'wasm', 'cpu']);
  expect(await useDevice()).toEqual({
    name: 'cpu',
    description: 'plain JavaScript, for debugging',
  });
});

test('a device that was registered comes before what it is faster than', async () => {
  registerDevice({
    name: 'wasm',
    start: async () => {
      await tf.setBackend('cpu');
      return 'stands in for wasm';
    },
  });
  expect(await useDevice('auto')).toEqual({ name: 'wasm', description: 'stands in for wasm' });
});

test('one that fails is passed over by auto, and says why when it is asked for', async () => {
  registerDevice({
    name: 'cuda',
    start: () => Promise.reject(new D2DMoEError('CUDA_NO_DRIVER', 'There is no driver.')),
  });
  registerDevice({ name: 'webgpu', start: () => Promise.reject(new Error('out of luck')) });
  expect((await useDevice()).name).toBe('wasm');
  await expect(useDevice('cuda')).rejects.toThrow(
    expect.objectContaining({ code: 'CUDA_NO_DRIVER' }),
  );
  await expect(useDevice('webgpu')).rejects.toThrow(
    expect.objectContaining({
      code: 'DEVICE_UNAVAILABLE',
      message: expect.stringContaining('out of luck'),
    }),
  );
  await expect(useDevice('abacus')).rejects.toThrow(
    expect.objectContaining({ code: 'DEVICE_UNKNOWN' }),
  );
});

test('the list says what is there, what not and why, and leaves the current backend', async () => {
  registerDevice({
    name: 'abacus',
    start: () => Promise.reject(new Error('no beads')),
  });
  await useDevice('cpu');
  expect(await listDevices()).toEqual([
    { name: 'cuda', available: false, reason: 'There is no driver.' },
    { name: 'webgpu', available: false, reason: expect.stringContaining('out of luck') },
    { name: 'wasm', available: true, description: 'stands in for wasm' },
    { name: 'cpu', available: true, description: 'plain JavaScript, for debugging' },
    { name: 'abacus', available: false, reason: expect.stringContaining('no beads') },
  ]);
  expect(tf.getBackend()).toBe('cpu');
});
