import { D2DMoEError } from '@d2dmoe/core';

const lost = new WeakMap<GPUDevice, GPUDeviceLostInfo>();
const watched = new WeakSet<GPUDevice>();

/** Remembers when this device is lost. */
export function watchDevice(device: GPUDevice): void {
  if (watched.has(device)) return;
  watched.add(device);
  void device.lost.then((info) => lost.set(device, info));
}

/** Whether the device is known to be lost. */
export function isLost(device: GPUDevice): boolean {
  return lost.has(device);
}

/** @throws D2DMoEError `WEBGPU_DEVICE_LOST` */
export function checkAlive(device: GPUDevice): void {
  const info = lost.get(device);
  if (info === undefined) return;
  const why = info.message === '' ? info.reason : info.message.split('\n')[0];
  throw new D2DMoEError(
    'WEBGPU_DEVICE_LOST',
    `The WebGPU device is lost (${why}), and what was on it with it: call useWebGPU() again and load the model anew.`,
  );
}
