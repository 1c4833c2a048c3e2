import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import type { ThreadStart } from './kernel-module.js';
import type { Thread, ThreadSource } from './thread-pool.js';

/** Worker threads of Node. They do not keep the process alive. */
export const nodeThreads: ThreadSource = { cores: availableParallelism, start };

function start(task: ThreadStart): Thread {
  // From src, where tests run, as from dist: the entry is a built file.
  const worker = new Worker(new URL('../../dist/wasm/worker-node.js', import.meta.url), {
    workerData: task,
    execArgv: [], // the process's own may name loaders that the entry has no use for
  });
  let end: string | undefined;
  const ready = new Promise<void>((resolve, reject) => {
    worker.once('message', () => {
      worker.unref();
      resolve();
    });
    worker.on('error', (error) => {
      end = `thread ${task.thread} stopped: ${error.message}`;
      reject(error);
    });
    worker.on('exit', (code) => {
      end ??= `thread ${task.thread} ended with exit code ${code}`;
      reject(new Error(end));
    });
  });
  ready.catch(() => {}); // one that is ended before anyone waits for it
  return {
    ready,
    ended: () => end,
    terminate: async () => {
      await worker.terminate();
    },
  };
}
