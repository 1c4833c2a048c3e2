import type { ConvertedModel } from './suite/logits.js';
import type { Left } from './suite/leaks.js';
import type { OpReport } from './suite/op.js';

/** A device that the suite runs on, in this process or in a page. */
export interface DeviceUnderTest {
  name: string;
  /** Makes it the current one; rejects where the machine does not have it. */
  start(): Promise<void>;
  checkOp(numRuns: number, storage?: 'float32' | 'float16'): Promise<OpReport>;
  leftAfter(passes: number): Promise<Left>;
  logits(model: ConvertedModel): Promise<{ logits: number[]; density: number }>;
}
