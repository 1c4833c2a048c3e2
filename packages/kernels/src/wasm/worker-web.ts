import { serveJobs } from './serve-jobs.js';
import type { ThreadStart } from './kernel-module.js';

addEventListener(
  'message',
  ({ data }: MessageEvent<ThreadStart>) => serveJobs(data, () => postMessage('ready')),
  { once: true },
);
