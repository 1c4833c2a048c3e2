/** How much of a buffer a kernel may see at once, by device; a test may allow less than the device does. */
const allowed = new WeakMap<GPUDevice, number>();

/** The most bytes of one binding. */
export function bindingBytesOf(device: GPUDevice): number {
  return allowed.get(device) ?? factsOf(device).bindingBytes;
}

/** What kernels are made for, looked up once: asking a device takes as long as encoding a dispatch. */
interface Facts {
  subgroup: number;
  bindingBytes: number;
  workgroupBytes: number;
}
const facts = new WeakMap<GPUDevice, Facts>();

function factsOf(device: GPUDevice): Facts {
  let known = facts.get(device);
  if (known === undefined) {
    known = {
      subgroup: readSubgroup(device),
      bindingBytes: device.limits.maxStorageBufferBindingSize,
      workgroupBytes: device.limits.maxComputeWorkgroupStorageSize,
    };
    facts.set(device, known);
  }
  return known;
}

function readSubgroup(device: GPUDevice): number {
  if (!device.features.has('subgroups')) return 0;
  // The first browsers with subgroups did not say how large they are.
  const info = device.adapterInfo as Partial<GPUAdapterInfo> | undefined;
  const most = info?.subgroupMaxSize ?? 0;
  return info?.subgroupMinSize === most && [4, 8, 16, 32, 64].includes(most) ? most : 0;
}

/** Workgroup memory that a kernel may have, in bytes. */
export const workgroupBytesOf = (device: GPUDevice): number => factsOf(device).workgroupBytes;

/**
 * Threads of a subgroup where the device has subgroups of one size, a power of two up to 64; else 0. Where they may differ
 * from pipeline to pipeline a kernel could not be written for them.
 */
export const subgroupOf = (device: GPUDevice): number =>
  withoutSubgroups.has(device) ? 0 : factsOf(device).subgroup;

const withoutSubgroups = new WeakSet<GPUDevice>();

/** Has the op do without subgroups on a device that has them, or use them again. */
export function forbidSubgroups(device: GPUDevice, isForbidden: boolean): void {
  if (isForbidden) withoutSubgroups.add(device);
  else withoutSubgroups.delete(device);
}

/** Allows bindings of so many bytes only; undefined allows what the device does. */
export function limitBindings(device: GPUDevice, bytes: number | undefined): void {
  if (bytes === undefined) allowed.delete(device);
  else allowed.set(device, bytes);
}
