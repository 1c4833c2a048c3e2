import { parentPort, workerData } from 'node:worker_threads';
import { serveJobs } from './serve-jobs.js';
import type { ThreadStart } from './kernel-module.js';

// oxlint-disable-next-line unicorn/require-post-message-target-origin -- a port's takes none
serveJobs(workerData as ThreadStart, () => parentPort?.postMessage('ready'));
