import type { DataId } from '@tensorflow/tfjs-core';
import type { TensorRecord } from './tensor-data.js';

/** How many new tensors are looked at in one go. */
const BATCH = 1024;

/**
 * Notices tensors that are garbage collected without dispose(). A FinalizationRegistry costs more than the rest of a
 * small op, and most tensors are disposed in the job that made them: so new ones wait in a list, and only those that
 * outlive the job, or a thousand others, are registered. Nothing is lost by it: callbacks come between jobs anyway.
 */
export class CollectionWatch {
  readonly #registry: FinalizationRegistry<TensorRecord>;
  #dataIds: DataId[] = [];
  #records: TensorRecord[] = [];
  #isScheduled = false;

  /** @param collected Called after the collector has taken the dataId, with refCount 0 if it was disposed before. */
  constructor(collected: (record: TensorRecord) => void) {
    this.#registry = new FinalizationRegistry(collected);
  }

  watch(dataId: DataId, record: TensorRecord): void {
    this.#dataIds.push(dataId);
    this.#records.push(record);
    if (this.#records.length >= BATCH) this.#register();
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#register();
    }).unref();
  }

  #register(): void {
    for (const [i, record] of this.#records.entries()) {
      const dataId = this.#dataIds[i];
      if (record.refCount > 0 && dataId !== undefined) this.#registry.register(dataId, record);
    }
    this.#dataIds = [];
    this.#records = [];
  }
}
