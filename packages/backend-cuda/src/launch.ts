import { D2DMoEError } from '@d2dmoe/core';

/** Bytes of the block that arguments are packed into; CUDA's own limit for a kernel's parameters is 4,096. */
export const ARGUMENT_BYTES = 4096;

type Scalar = 'p' | 'i' | 'u' | 'l' | 'f' | 'd';

const SIZE: Record<Scalar, number> = { p: 8, i: 4, u: 4, l: 8, f: 4, d: 8 };

/** One parameter: its type, its count (more than 1 for a struct of them) and its byte offset. */
export interface Parameter {
  readonly type: Scalar;
  readonly count: number;
  readonly offset: number;
  /** Whether it goes on with the struct before it, and is no parameter of its own to the driver. */
  readonly isJoined: boolean;
}

/** The memory that arguments are packed into, seen as every type that a parameter may have. */
export interface ArgumentMemory {
  readonly uint32: Uint32Array;
  readonly int32: Int32Array;
  readonly float32: Float32Array;
  readonly float64: Float64Array;
}

/** Views over the first {@link ARGUMENT_BYTES} of a buffer. */
export function argumentMemory(buffer: ArrayBuffer): ArgumentMemory {
  return {
    uint32: new Uint32Array(buffer, 0, ARGUMENT_BYTES / 4),
    int32: new Int32Array(buffer, 0, ARGUMENT_BYTES / 4),
    float32: new Float32Array(buffer, 0, ARGUMENT_BYTES / 4),
    float64: new Float64Array(buffer, 0, ARGUMENT_BYTES / 8),
  };
}

/** One argument of a kernel: a number, or an array for a struct of numbers. */
export type Argument = number | readonly number[];

/** A kernel function: where it is, how its parameters lie, and its handle once a backend has loaded it. */
export interface Kernel {
  /** Base name of its .cu file. */
  readonly module: string;
  /** Name of the function in it. */
  readonly name: string;
  /** In the order of the arguments. */
  readonly parameters: readonly Parameter[];
  /** Bytes of all parameters, as C lays them out. */
  readonly bytes: number;
  /** Who resolved `handle`: a backend, or none yet. */
  owner: object | undefined;
  /** CUfunction. */
  handle: number;
  /** Host address of the list of its arguments' addresses. */
  parameterList: number;
  /** Dynamic shared memory that the function may use without being told so, in bytes. */
  sharedBytes: number;
}

/**
 * A kernel function of a module. Meant for a module-level constant: nothing is loaded before its first launch.
 *
 * @param module Base name of the .cu file, as in `unary`, `products.sm90a`.
 * @param name The function's name.
 * @param params One word a parameter: `p` device pointer, `i` int32, `u` uint32, `l` int64, `f` float32, `d` float64;
 *   `i*8` is a struct of 8 int32, and `p*4 +i*4` one of 4 pointers and then 4 int32. Each lies at its natural alignment.
 */
export function kernel(module: string, name: string, params: string): Kernel {
  const parameters: Parameter[] = [];
  let bytes = 0;
  for (const word of params.split(' ').filter((text) => text !== '')) {
    const match = /^(\+?)([piulfd])(?:\*([1-9][0-9]*))?$/.exec(word);
    if (match === null) {
      throw new D2DMoEError(
        'CUDA_KERNEL_INVALID',
        `Kernel ${name} has the parameter "${word}"; a parameter is one of p, i, u, l, f, d, with *COUNT behind it for a struct and + before it where a struct goes on.`,
      );
    }
    const isJoined = match[1] === '+';
    const type = match[2] as Scalar;
    const count = Number(match[3] ?? 1);
    const offset = Math.ceil(bytes / SIZE[type]) * SIZE[type];
    parameters.push({ type, count, offset, isJoined });
    bytes = offset + count * SIZE[type];
  }
  if (bytes > ARGUMENT_BYTES) {
    throw new D2DMoEError(
      'CUDA_KERNEL_INVALID',
      `Kernel ${name} has ${bytes} bytes of parameters; CUDA takes at most ${ARGUMENT_BYTES}.`,
    );
  }
  return {
    module,
    name,
    parameters,
    bytes,
    owner: undefined,
    handle: 0,
    parameterList: 0,
    sharedBytes: 48 * 1024,
  };
}

/**
 * Writes a kernel's arguments at its parameters' offsets.
 *
 * @throws D2DMoEError CUDA_KERNEL_INVALID where count or form of the arguments is not that of the parameters.
 */
export function packArguments(
  kernel: Kernel,
  args: readonly Argument[],
  memory: ArgumentMemory,
): void {
  const { parameters } = kernel;
  if (args.length !== parameters.length) {
    throw new D2DMoEError(
      'CUDA_KERNEL_INVALID',
      `Kernel ${kernel.name} takes ${parameters.length} arguments, not ${args.length}.`,
    );
  }
  for (let i = 0; i < parameters.length; i++) {
    const { type, count, offset } = parameters[i]!;
    const argument = args[i]!;
    if (typeof argument === 'number') {
      if (count !== 1) throw wrongForm(kernel, i, count);
      write(memory, type, offset, argument);
    } else {
      if (argument.length !== count) throw wrongForm(kernel, i, count);
      for (let j = 0; j < count; j++) {
        write(memory, type, offset + j * SIZE[type], argument[j]!);
      }
    }
  }
}

function wrongForm(kernel: Kernel, index: number, count: number): D2DMoEError {
  return new D2DMoEError(
    'CUDA_KERNEL_INVALID',
    `Argument ${index} of kernel ${kernel.name} has to be ${count === 1 ? 'a number' : `an array of ${count} numbers`}.`,
  );
}

function write(memory: ArgumentMemory, type: Scalar, offset: number, value: number): void {
  switch (type) {
    case 'p':
    case 'l': {
      // Two halves, little-endian: typed arrays of 64-bit integers would want a BigInt for each value.
      const at = offset >>> 2;
      memory.uint32[at] = value; // modulo 2^32
      memory.int32[at + 1] = Math.floor(value / 4294967296);
      break;
    }
    case 'i':
      memory.int32[offset >>> 2] = value;
      break;
    case 'u':
      memory.uint32[offset >>> 2] = value;
      break;
    case 'f':
      memory.float32[offset >>> 2] = value;
      break;
    case 'd':
      memory.float64[offset >>> 3] = value;
      break;
  }
}
