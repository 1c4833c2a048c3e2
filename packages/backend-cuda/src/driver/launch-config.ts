import type { Driver, HostMemory } from './driver.js';

/** What a launch may ask for beyond its blocks, on cards of compute capability 9.0. */
export interface LaunchOptions {
  /** Blocks, next to each other along the first direction, that run at once and reach each other's shared memory. */
  readonly cluster?: number;
  /**
   * Whether blocks may start while the launch before still runs, once its blocks allow it; the kernel itself waits
   * (griddepcontrol.wait) before it reads what that launch writes.
   */
  readonly isProgrammatic?: boolean;
}

/** CUlaunchConfig, and behind it its attributes. */
const CONFIG_BYTES = 64;
const ATTRIBUTE_BYTES = 72;
const CLUSTER_DIMENSION = 4;
const PROGRAMMATIC_STREAM_SERIALIZATION = 6;

/** The CUlaunchConfig of cuLaunchKernelEx, at a fixed address. */
export class LaunchConfig {
  readonly #memory: HostMemory;
  readonly #view: DataView;

  constructor(driver: Driver) {
    this.#memory = driver.hostMemory(CONFIG_BYTES + 2 * ATTRIBUTE_BYTES);
    this.#view = new DataView(this.#memory.buffer);
  }

  /**
   * @param extents Of the grid and of a block, three each.
   * @returns The config's address.
   */
  write(
    extents: readonly number[],
    sharedBytes: number,
    stream: number,
    { cluster = 1, isProgrammatic = false }: LaunchOptions,
  ): number {
    let attributes = 0;
    const attribute = (id: number, values: readonly number[]) => {
      const at = CONFIG_BYTES + attributes * ATTRIBUTE_BYTES;
      this.#view.setUint32(at, id, true);
      for (const [i, value] of values.entries()) {
        this.#view.setUint32(at + 8 + i * 4, value, true);
      }
      attributes += 1;
    };
    if (cluster > 1) attribute(CLUSTER_DIMENSION, [cluster, 1, 1]);
    if (isProgrammatic) attribute(PROGRAMMATIC_STREAM_SERIALIZATION, [1]);
    for (const [i, extent] of extents.entries()) this.#view.setUint32(i * 4, extent, true);
    this.#view.setUint32(24, sharedBytes, true);
    this.#view.setBigUint64(32, BigInt(stream), true);
    this.#view.setBigUint64(40, BigInt(this.#memory.address + CONFIG_BYTES), true);
    this.#view.setUint32(48, attributes, true);
    return this.#memory.address;
  }
}
