import type { ThreadStart } from './kernel-module.js';
import type { Thread, ThreadSource } from './thread-pool.js';

/** Workers of a page, which must be cross-origin isolated to share memory. */
export const webThreads: ThreadSource = {
  cores: () => (typeof Worker === 'undefined' ? 1 : navigator.hardwareConcurrency),
  start,
};

function start(task: ThreadStart): Thread {
  const worker = new Worker(new URL('./worker-web.js', import.meta.url), { type: 'module' });
  let end: string | undefined;
  const ready = new Promise<void>((resolve, reject) => {
    worker.addEventListener('message', () => resolve(), { once: true });
    worker.addEventListener('error', ({ message }) => {
      end = `thread ${task.thread} stopped: ${message || 'its script was not loaded'}`;
      reject(new Error(end));
    });
  });
  ready.catch(() => {}); // one that is ended before anyone waits for it
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a worker's takes none
  worker.postMessage(task);
  return {
    ready,
    ended: () => end,
    terminate: () => {
      worker.terminate();
      return Promise.resolve();
    },
  };
}
