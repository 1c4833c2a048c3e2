import type { Results, Workload } from '../workload.js';

/** Who runs workloads. Each lives in a process of its own, so that none sees the kernels of another. */
export interface Peer {
  /** Version and settings, for the record. */
  about: Record<string, string | number | boolean>;
  /**
   * Makes a workload's inputs and whatever the peer keeps for them.
   *
   * @throws Error where the peer has no kernel of its own for the workload: there is no fallback
   */
  prepare: (workload: Workload) => Promise<Prepared>;
}

/** A workload that is ready to run. */
export interface Prepared {
  /** What is timed: the work, and its output where JavaScript can read it. */
  run: () => unknown;
  /** What the work gives, to be checked; called once, before the first run. */
  results: () => Results | Promise<Results>;
}

/** Ours with and without relaxed SIMD, and those of others. */
export type PeerName =
  | 'd2dmoe'
  | 'd2dmoe-simd'
  | 'tfjs-wasm'
  | 'onnxruntime-node'
  | 'onnxruntime-web';
