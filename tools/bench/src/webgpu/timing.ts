import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { summarize, type Times } from '../statistics.js';

/** How works are timed. */
export interface Turns {
  /** How often each work gets its turn. */
  rounds: number;
  /** About how long a turn is, in milliseconds; at least one run. */
  turn: number;
}

/** The schedule of what takes fractions of a millisecond. */
export const turns: Turns = { rounds: 15, turn: 20 };

/** Submits what is encoded and waits until the device has done it. */
export async function finished(backend: WebGPUBackend): Promise<void> {
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  backend.submitQueue();
  await backend.queue.onSubmittedWorkDone();
}

/** What is timed. */
export interface Work {
  /** Runs it once; the number of the run lets it rotate its inputs. A promise is awaited before the next run. */
  run: (run: number) => void | Promise<void>;
  /** Resolves when the device has done all runs. */
  finish: () => Promise<void>;
}

/**
 * Times works in turns, forwards and backwards alternately, each turn from its first enqueued command until the device
 * has done all. Half as many runs go before that are not timed: they collect what the work before has left as garbage.
 *
 * @returns Milliseconds of one run, by work: each of the times is the mean of a turn.
 */
export async function timeInTurns(
  works: Readonly<Record<string, Work>>,
  { rounds, turn }: Turns,
): Promise<Record<string, Times>> {
  const timed = Object.entries(works).map(([label, work]) => {
    let run = 0;
    const milliseconds = async (runs: number) => {
      const start = performance.now();
      for (let i = 0; i < runs; i++) {
        const enqueued = work.run(run++);
        // oxlint-disable-next-line no-await-in-loop -- a run begins when the one before has been enqueued
        if (enqueued) await enqueued;
      }
      await work.finish();
      return (performance.now() - start) / runs;
    };
    return { label, milliseconds, runs: 1, times: [] as number[] };
  });
  for (const entry of timed) {
    await entry.milliseconds(2);
    entry.runs = Math.min(Math.max(Math.round(turn / (await entry.milliseconds(3))), 1), 500);
  }
  for (let round = 0; round < rounds; round++) {
    for (const { milliseconds, runs, times } of round % 2 === 0 ? timed : timed.toReversed()) {
      await milliseconds(Math.ceil(runs / 2));
      times.push(await milliseconds(runs));
    }
  }
  return Object.fromEntries(timed.map(({ label, times }) => [label, summarize(times)]));
}
