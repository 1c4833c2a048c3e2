import type { ExpertsCall } from '../call.js';

/** A call as the many-rows kernels take it. */
export interface ManyCall extends ExpertsCall {
  readonly storage: 'float16' | 'bfloat16';
  /** Device address of x in the storage's 16 bits, [N, pitch]. */
  readonly x16: number;
  /** Elements from one row of x, up and gate to the next, a multiple of 8; zeros behind dIn. */
  readonly pitch: number;
  /** Device address of the result in the storage's 16 bits, [N, dOut]. */
  readonly out: number;
}
