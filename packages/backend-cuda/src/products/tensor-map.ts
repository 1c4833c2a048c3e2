import koffi from 'koffi';
import type { CudaBackend } from '../backend.js';
import type { Driver, HostMemory } from '../driver/driver.js';
import { check } from '../driver/errors.js';

/** Row-major matrices of bf16, one behind the other, and the box of them that is copied at once. */
export interface TensorMapOptions {
  /** Device address, a multiple of 16. */
  pointer: number;
  /** Elements of a line, a multiple of 8. */
  length: number;
  /** Lines of a matrix. */
  lines: number;
  /** Number of matrices. */
  matrices: number;
  /** Elements from one matrix to the next, a multiple of 8. */
  stride: number;
  /** Elements of a line that a box has: 64, whose 128 bytes are swizzled. */
  boxLength: number;
  /** Lines of a box, at most 256. */
  boxLines: number;
  /** Elements from one line to the next, a multiple of 8; as many as a line has if not given. */
  pitch?: number;
  /** Matrices of a box; one if not given. */
  boxMatrices?: number;
}

const DATA_TYPE_BFLOAT16 = 9;
const SWIZZLE_128B = 3;
const L2_PROMOTION_256B = 3;
const MAP_BYTES = 128;
const ALIGNMENT = 64;

/** Maps that are kept: a call's matrices are the same ones the next time, and the driver takes longer than to look them up. */
const MOST_KEPT = 512;

/** Makes tensor maps: what the bulk tensor copy engine (sm_90) has to know of a matrix, as a kernel's `i*32`. */
class TensorMaps {
  readonly #driver: Driver;
  readonly #encode: (...args: unknown[]) => number;
  readonly #memory: HostMemory;
  readonly #address: number;
  readonly #kept = new Map<string, readonly number[]>();

  constructor(driver: Driver) {
    this.#driver = driver;
    const library = koffi.load(driver.file);
    const types = 'uint64 int uint uint64 void* void* void* void* int int int int';
    this.#encode = library.func('cuTensorMapEncodeTiled', 'int', types.split(' ')) as (
      ...args: unknown[]
    ) => number;
    this.#memory = driver.hostMemory(MAP_BYTES + ALIGNMENT);
    this.#address = Math.ceil(this.#memory.address / ALIGNMENT) * ALIGNMENT;
  }

  /** The map's 128 bytes, which follow from the options alone. */
  encode(options: TensorMapOptions): readonly number[] {
    const { pointer, length, lines, matrices, stride, boxLength, boxLines } = options;
    const { pitch = length, boxMatrices = 1 } = options;
    const key = `${pointer} ${length} ${lines} ${matrices} ${stride} ${boxLength} ${boxLines} ${pitch} ${boxMatrices}`;
    const known = this.#kept.get(key);
    if (known !== undefined) return known;
    const result = this.#encode(
      this.#address,
      DATA_TYPE_BFLOAT16,
      3,
      pointer,
      BigUint64Array.from([length, lines, matrices], BigInt),
      BigUint64Array.from([pitch * 2, stride * 2], BigInt),
      new Uint32Array([boxLength, boxLines, boxMatrices]),
      new Uint32Array([1, 1, 1]),
      0,
      SWIZZLE_128B,
      L2_PROMOTION_256B,
      0,
    );
    check(this.#driver, result, 'cuTensorMapEncodeTiled');
    const offset = this.#address - this.#memory.address;
    const map = Array.from(new Int32Array(this.#memory.buffer, offset, MAP_BYTES / 4));
    this.#kept.set(key, map);
    if (this.#kept.size > MOST_KEPT) this.#kept.delete(this.#kept.keys().next().value as string);
    return map;
  }
}

const ofBackends = new WeakMap<CudaBackend, TensorMaps>();

/** The backend's own. */
export function tensorMapsOf(backend: CudaBackend): TensorMaps {
  let maps = ofBackends.get(backend);
  if (maps === undefined) {
    maps = new TensorMaps(backend.driver);
    ofBackends.set(backend, maps);
  }
  return maps;
}
