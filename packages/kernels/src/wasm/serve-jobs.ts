import { JobBoard } from './job-board.js';
import { kernelImports, kernelList, type ThreadStart } from './kernel-module.js';

/** What a worker does all its life. Only its termination ends it. */
export function serveJobs(
  { board, module, memory, thread }: ThreadStart,
  ready: () => void,
): never {
  const kernels = kernelList(new WebAssembly.Instance(module, kernelImports(memory)), module);
  ready();
  return new JobBoard(board).serve(kernels, thread);
}
