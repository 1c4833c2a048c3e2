import type { ExpertStorage, SelectionRule } from '@d2dmoe/kernels';
import {
  type Batch,
  type DynamicSubstitute,
  dynamicSubstitute,
  type Model,
  type Site,
} from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { expectedDensities } from './expected-densities.js';

/** What {@link timeForward} takes. */
export interface TimeForwardOptions {
  /** The dense model, as it was before its conversion. */
  dense: Model;
  /** The converted model. */
  converted: Model;
  /** The batch that both run; it stays the caller's. */
  batch: Batch;
  /** Selection rules to time. */
  rules: readonly (SelectionRule | ((site: Site) => SelectionRule))[];
  /** How the converted model's experts are stored; float32 by default. */
  storage?: ExpertStorage;
  /** Timed runs of each; default 9. Two more come before them and do not count. */
  runs?: number;
  /** Ends the timing before its next run: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** Wall-clock time of a forward pass in milliseconds. */
export interface Timing {
  /** The middle run; of an even number, the mean of the two in the middle. */
  median: number;
  /** The fastest run. */
  least: number;
  /** The slowest run. */
  greatest: number;
}

/**
 * Times forward passes on the current backend: the dense model and the converted one under each rule by turns, so
 * that what else the machine does falls on all alike. A run ends when one of its logits has been read: reading all of a
 * language model's would take longer than they do.
 */
export async function timeForward(
  options: TimeForwardOptions,
): Promise<{ dense: Timing; rules: Timing[] }> {
  const { dense, converted, batch, rules, storage = 'float32', runs = 9, signal } = options;
  const substitutes: DynamicSubstitute[] = [];
  for (const rule of rules) {
    const densities = await expectedDensities(converted, batch, rule);
    substitutes.push(
      dynamicSubstitute(converted, {
        rule,
        storage,
        expectedDensity: ({ name }) => densities.get(name),
      }),
    );
  }
  const passes = [
    () => dense.forward(batch).logits,
    ...substitutes.map((substitute) => () => converted.forward(batch, { substitute }).logits),
  ];
  const times = passes.map((): number[] => []);
  try {
    for (let run = -2; run < runs; run++) {
      for (const [i, pass] of passes.entries()) {
        signal?.throwIfAborted();
        const start = performance.now();
        const one = tf.tidy(() => {
          const logits = pass();
          return tf.slice(tf.reshape(logits, [logits.size]), 0, 1);
        });
        await one.data();
        const milliseconds = performance.now() - start;
        one.dispose();
        if (run >= 0) times[i]?.push(milliseconds);
      }
    }
  } finally {
    for (const substitute of substitutes) substitute.dispose();
  }
  const [denseTiming, ...others] = times.map(timing);
  return { dense: denseTiming as Timing, rules: others };
}

function timing(times: readonly number[]): Timing {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (i: number) => sorted[i] as number;
  const half = (sorted.length - 1) / 2;
  return {
    median: (at(Math.floor(half)) + at(Math.ceil(half))) / 2,
    least: at(0),
    greatest: at(sorted.length - 1),
  };
}
