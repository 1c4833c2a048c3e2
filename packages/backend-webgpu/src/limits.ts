/** How much of a buffer a kernel may see at once, by device; a test may allow less than the device does. */
const allowed = new WeakMap<GPUDevice, number>();

/** The most bytes of one binding. */
export function bindingBytesOf(device: GPUDevice): number {
  return allowed.get(device) ?? device.limits.maxStorageBufferBindingSize;
}

/** Allows bindings of so many bytes only; undefined allows what the device does. */
export function limitBindings(device: GPUDevice, bytes: number | undefined): void {
  if (bytes === undefined) allowed.delete(device);
  else allowed.set(device, bytes);
}
