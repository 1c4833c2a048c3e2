import type { Row } from '../row.js';
import type { FeedForwardCase } from './feed-forward.js';
import type { Peaks } from './peaks.js';
import type { Turns } from './timing.js';

/** A device that is measured, in this process or in a page. */
export interface BenchDevice {
  /** What it is, for the results. */
  name: string;
  /** @param share Of the work for a large card. */
  peaks(share: number): Promise<Peaks>;
  /** The rows of one layer whose names contain `filter`. */
  rows(layerCase: FeedForwardCase, peaks: Peaks, turns: Turns, filter: string): Promise<Row[]>;
  close(): Promise<void>;
}
