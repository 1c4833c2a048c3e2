/**
 * What long work reports. The shape is the one that users of transformers.js know (`status`, `name`, `progress` in
 * percent); the statuses are ours.
 */
export interface ProgressEvent {
  /** `initiate` once at the start, `progress` repeatedly, `done` once; `skip` where nothing had to be done. */
  status: 'initiate' | 'progress' | 'done' | 'skip';
  /** What the event is about, e.g. a stage's name: `sparsify`. */
  name: string;
  /** Percent done, 0 to 100. */
  progress?: number;
  /** Steps done. */
  step?: number;
  /** Steps in total. */
  steps?: number;
  /** Figures of the moment by name, e.g. `loss`, `accuracy`. */
  metrics?: Record<string, number>;
}

/** Receives progress events; called synchronously from the work, so it must be quick and must not throw. */
export type ProgressCallback = (event: ProgressEvent) => void;
