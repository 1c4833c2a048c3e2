import type { MessagePort } from 'node:worker_threads';
import type { Activation } from '../types.js';

/** How gpu.js runs in Node: `async` is the best that it finds there. */
export type GpuJsMode = 'async' | 'webasm' | 'cpu';

/** What the thread is started with. */
export interface ThreadStart {
  mode: GpuJsMode;
  /** Where requests come in and replies go out. */
  port: MessagePort;
  /** One int32: 0 while the calling thread waits. */
  signal: SharedArrayBuffer;
}

/** The sizes and weights of one FFN. */
export interface ThreadExperts {
  dIn: number;
  dOut: number;
  experts: number;
  expertSize: number;
  gated: boolean;
  /** By the names of the kernels' constants. */
  weights: Record<string, Float32Array>;
}

/** Rows to run through an FFN: x [N, dIn], selection [N, n] of 0 and 1, and output [N, dOut], to be written. */
export interface ThreadRows {
  activation: Activation;
  rows: number;
  x: Float32Array;
  selection: Float32Array;
  output: Float32Array;
}

/** What the thread is asked for. `pack` and `run` are answered, `release` is not. */
export type Request =
  | { type: 'pack'; id: number; experts: ThreadExperts }
  | ({ type: 'run'; id: number } & ThreadRows)
  | { type: 'release'; id: number };

/** What the thread answers: how gpu.js ran, or why it did not. */
export type Reply = { executor: string } | { error: string };
