// Loaded by worker scripts too, which resolve no package names in a page without a bundler: it imports nothing.

/** A kernel of which every call does one part of a job: its last arguments are (thread, part, parts). */
export type PartKernel = (...values: number[]) => void;

/** What a thread needs to run parts of jobs: it makes its own instance of the kernels over the same memory. */
export interface ThreadStart {
  board: SharedArrayBuffer;
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** 1 … threads − 1; the calling thread is 0. */
  thread: number;
}

/** What a module of kernels imports. */
export function kernelImports(memory: WebAssembly.Memory): WebAssembly.Imports {
  const abort = () => {
    throw new Error('A wasm kernel stopped: this is a defect of d2dmoe.');
  };
  return { env: { memory, abort } };
}

/** The names of a module's exports in an order that all threads agree on. */
export function kernelNames(module: WebAssembly.Module): string[] {
  return WebAssembly.Module.exports(module).map(({ name }) => name);
}

/** The exports of an instance in the order of {@link kernelNames}. */
export function kernelList(
  instance: WebAssembly.Instance,
  module: WebAssembly.Module,
): PartKernel[] {
  return kernelNames(module).map((name) => instance.exports[name] as unknown as PartKernel);
}
