import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';

/** A device that can be asked for by its name. */
export interface Device {
  /** Such as `webgpu`. */
  name: string;
  /**
   * Makes it tfjs's current backend. Resolves to what it turned out to be, for people.
   *
   * @throws an error that says why it cannot be had
   */
  start(): Promise<string>;
}

/** What {@link listDevices} found out about one device. */
export type DeviceReport =
  | { name: string; available: true; description: string }
  | { name: string; available: false; reason: string };

/** What `auto` tries, the fastest first. */
const order = {
  node: ['cuda', 'webgpu', 'wasm', 'cpu'],
  page: ['webgpu', 'wasm', 'webgl', 'cpu'],
};

const registered = new Map<string, Device>();

/**
 * Makes a device known to {@link useDevice} and {@link listDevices}, in place of one of that name. A tfjs backend that
 * was imported needs none, unless there is something to do besides selecting it, such as registering kernels.
 */
export function registerDevice(device: Device): void {
  registered.set(device.name, device);
}

/**
 * The devices that can be asked for, in the order in which `auto` tries them: in Node cuda, webgpu, wasm and cpu, in a
 * page webgpu, wasm, webgl and cpu; then any others that were registered.
 */
export function deviceNames(): string[] {
  const known = tf.env().getBool('IS_NODE') ? order.node : order.page;
  return [...new Set([...known, ...registered.keys()])];
}

/**
 * Makes a device tfjs's current backend.
 *
 * @param name one of {@link deviceNames}; `auto` is the first of them that starts
 * @returns its name, and what it turned out to be
 * @throws D2DMoEError `DEVICE_UNKNOWN` for another name; `DEVICE_UNAVAILABLE` where no backend of that name was
 *   imported or it does not start, or for `auto` where none does; what the device itself throws, if that is a
 *   D2DMoEError
 */
export async function useDevice(name = 'auto'): Promise<{ name: string; description: string }> {
  if (name === 'auto') return await useFirst();
  if (!deviceNames().includes(name)) {
    throw new D2DMoEError(
      'DEVICE_UNKNOWN',
      `There is no device ${name}; the devices are auto, ${deviceNames().join(', ')}.`,
    );
  }
  try {
    return { name, description: await deviceOf(name).start() };
  } catch (error) {
    if (D2DMoEError.isInstance(error)) throw error;
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `The ${name} device does not start (${(error as Error).message}).`,
      { cause: error },
    );
  }
}

/**
 * What there is to compute on, what not, and why. It starts every device to see, one after the other, and makes the
 * one that was current so again.
 *
 * @returns one report for each of {@link deviceNames}, in that order
 */
export async function listDevices(): Promise<DeviceReport[]> {
  // Reading the backend's name would choose one where none has been chosen yet.
  const current = tf.engine().backendName;
  const reports: DeviceReport[] = [];
  for (const name of deviceNames()) {
    try {
      // oxlint-disable-next-line no-await-in-loop -- there is one current backend
      const { description } = await useDevice(name);
      reports.push({ name, available: true, description });
    } catch (error) {
      reports.push({ name, available: false, reason: (error as Error).message });
    }
  }
  if (current) await tf.setBackend(current);
  return reports;
}

async function useFirst(): Promise<{ name: string; description: string }> {
  const reasons: string[] = [];
  for (const name of deviceNames()) {
    try {
      // oxlint-disable-next-line no-await-in-loop -- the next one is for where this one fails
      return await useDevice(name);
    } catch (error) {
      reasons.push(`${name}: ${(error as Error).message}`);
    }
  }
  throw new D2DMoEError(
    'DEVICE_UNAVAILABLE',
    `There is nothing to compute on; import a backend, such as @tensorflow/tfjs-backend-cpu. ${reasons.join(' ')}`,
  );
}

function deviceOf(name: string): Device {
  return registered.get(name) ?? { name, start: () => startBackend(name) };
}

/** Selects a tfjs backend that registered itself. */
async function startBackend(name: string): Promise<string> {
  if (!tf.findBackendFactory(name) && !tf.findBackend(name)) {
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `No ${name} backend was registered: import the package that has it.`,
    );
  }
  if (!(await tf.setBackend(name))) {
    throw new D2DMoEError(
      'DEVICE_UNAVAILABLE',
      `tfjs's ${name} backend does not start here; the console says why.`,
    );
  }
  return name === 'cpu' ? 'plain JavaScript, for debugging' : `tfjs's ${name} backend`;
}
