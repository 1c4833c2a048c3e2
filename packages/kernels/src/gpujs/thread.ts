// A thread of Node that runs gpu.js: it awaits its promises, while the thread that asked waits for the answer.
import { parentPort, workerData } from 'node:worker_threads';
import { createGpu, GpuJsExperts } from './blocks.js';
import type { Reply, Request, ThreadStart } from './protocol.js';

const { mode, port, signal: buffer } = workerData as ThreadStart;
const signal = new Int32Array(buffer);
const gpu = createGpu(mode);
const packed = new Map<number, GpuJsExperts>();

port.on('message', (request: Request) => void answer(request));
// A thread that ends must not leave the other one waiting.
process.on('exit', wake);
// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port's takes none
parentPort?.postMessage('ready');

async function answer(request: Request): Promise<void> {
  if (request.type === 'release') {
    await packed.get(request.id)?.dispose();
    packed.delete(request.id);
    return;
  }
  let reply: Reply;
  try {
    reply = { executor: await perform(request) };
  } catch (error) {
    reply = { error: (error as Error).message };
  }
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port's takes none
  port.postMessage(reply);
  wake();
}

async function perform(request: Exclude<Request, { type: 'release' }>): Promise<string> {
  if (request.type === 'run') return await (packed.get(request.id) as GpuJsExperts).run(request);
  packed.set(request.id, new GpuJsExperts(gpu, request.experts));
  return '';
}

function wake(): void {
  Atomics.store(signal, 0, 1);
  Atomics.notify(signal, 0);
}
