import type { Driver, DriverFunctions } from '../src/driver/driver.js';

/** One kernel launch as the driver got it. */
export interface RecordedLaunch {
  readonly func: number;
  readonly grid: readonly number[];
  readonly block: readonly number[];
  readonly sharedBytes: number;
  readonly stream: number;
  /** The packed arguments, and what lies behind them from earlier launches. */
  readonly arguments: DataView;
  /** Where each argument lies in them. */
  readonly offsets: number[];
}

/** Answers that a test gives in place of the driver's own; each gets the arguments and returns a CUresult. */
export type Answers = Partial<DriverFunctions>;

/** A driver without a device, which remembers what it was asked. */
export interface FakeDriver extends Driver {
  /** Names of all functions that were called, in order. */
  readonly calls: string[];
  readonly launches: RecordedLaunch[];
}

const ATTRIBUTES: Record<number, number> = {
  16: 132,
  38: 50 << 20,
  75: 9,
  76: 0,
  97: 232_448,
  115: 1,
};

/** A driver that says yes to everything, but for `answers`. Handles and addresses are made up, and above 2^32. */
export function fakeDriver(answers: Answers = {}): FakeDriver {
  const calls: string[] = [];
  const launches: RecordedLaunch[] = [];
  const memory = new Map<number, ArrayBuffer>();
  let next = 0x7f12_0000_0000;
  const address = (bytes: number) => {
    next += Math.ceil(bytes / 256) * 256;
    return next - Math.ceil(bytes / 256) * 256;
  };
  const texts = new Map<number, string>();

  const word = (at: number) => {
    for (const [start, buffer] of memory) {
      if (at >= start && at < start + buffer.byteLength) {
        return Number(new DataView(buffer).getBigUint64(at - start, true));
      }
    }
    throw new Error(`Nothing is at ${at}.`);
  };

  const handle = (out: BigUint64Array): number => {
    out[0] = BigInt(address(256));
    return 0;
  };
  const own: Answers = {
    cuDriverGetVersion: (version) => {
      version[0] = 13_000;
      return 0;
    },
    cuGetErrorName: (error, out) => {
      out[0] = BigInt(address(1));
      texts.set(Number(out[0]), `CUDA_ERROR_${error}`);
      return 0;
    },
    cuGetErrorString: (error, out) => {
      out[0] = BigInt(address(1));
      texts.set(Number(out[0]), `description of ${error}`);
      return 0;
    },
    cuDeviceGetCount: (count) => {
      count[0] = 1;
      return 0;
    },
    cuDeviceGetName: (name) => {
      name.set(Buffer.from('Fake card\0'));
      return 0;
    },
    cuDeviceGetAttribute: (value, attribute) => {
      value[0] = ATTRIBUTES[attribute] ?? 0;
      return 0;
    },
    cuDevicePrimaryCtxRetain: handle,
    cuStreamCreate: handle,
    cuEventCreate: handle,
    cuModuleLoadDataEx: handle,
    cuModuleGetFunction: handle,
    cuMemAllocAsync: handle,
    cuDeviceGetDefaultMemPool: handle,
    cuStreamEndCapture: (_stream, out) => handle(out),
    cuGraphInstantiateWithFlags: handle,
    cuMemHostAlloc: (out, bytes) => {
      out[0] = BigInt(address(bytes));
      return 0;
    },
    cuLaunchKernel: (func, gx, gy, gz, bx, by, bz, sharedBytes, stream, params, extra) => {
      // A list of the arguments' addresses; the first lies at the beginning of where all are packed.
      const list = memory.get(params);
      const packed = memory.get(word(params));
      if (list === undefined || packed === undefined || extra !== 0) return 1;
      const addresses = Array.from(new BigUint64Array(list), Number);
      launches.push({
        func,
        grid: [gx, gy, gz],
        block: [bx, by, bz],
        sharedBytes,
        stream,
        arguments: new DataView(packed.slice(0)),
        offsets: addresses.map((address) => address - (addresses[0] ?? 0)),
      });
      return 0;
    },
  };

  const base = {
    calls,
    launches,
    file: 'fake',
    hostMemory: (bytes: number) => {
      const at = address(bytes);
      const buffer = new ArrayBuffer(bytes);
      memory.set(at, buffer);
      return { address: at, buffer };
    },
    view: (at: number, bytes: number) => {
      const buffer = new ArrayBuffer(bytes);
      memory.set(at, buffer);
      return buffer;
    },
    text: (at: number) => texts.get(at) ?? '',
  };
  return new Proxy(base as FakeDriver, {
    get(target, name) {
      if (typeof name !== 'string' || !name.startsWith('cu')) return Reflect.get(target, name);
      const key = name as keyof Answers;
      const answer: (...args: never[]) => number = answers[key] ?? own[key] ?? (() => 0);
      return (...args: never[]): number => {
        calls.push(name);
        return answer(...args);
      };
    },
  });
}
