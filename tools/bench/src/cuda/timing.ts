import type { CudaBackend } from '@d2dmoe/backend-cuda';
import { summarize, type Times } from '../statistics.js';

/** How works are timed. */
export interface Turns {
  /** How often each work gets its turn. */
  rounds: number;
  /** About how long a turn is, in milliseconds; at least one run. */
  turn: number;
}

/** The schedule of what takes fractions of a millisecond. */
export const turns: Turns = { rounds: 21, turn: 4 };

/**
 * Times works on the device in turns, forwards and backwards alternately, between events at a turn's two ends.
 *
 * @param works Each enqueues one run; the number of the run lets it rotate its inputs.
 * @returns Milliseconds of one run, by work: each of the times is the mean of a turn.
 */
export async function timeInTurns(
  backend: CudaBackend,
  works: Readonly<Record<string, (run: number) => void>>,
  { rounds, turn }: Turns = turns,
): Promise<Record<string, Times>> {
  const timed = Object.entries(works).map(([label, work]) => {
    let run = 0;
    const milliseconds = async (runs: number) => {
      const { kernelMs } = await backend.time(() => {
        for (let i = 0; i < runs; i++) work(run++);
      });
      return Number(kernelMs) / runs;
    };
    return { label, milliseconds, runs: 1, times: [] as number[] };
  });
  for (const entry of timed) {
    await entry.milliseconds(2);
    entry.runs = Math.min(Math.max(Math.round(turn / (await entry.milliseconds(2))), 1), 1000);
  }
  for (let round = 0; round < rounds; round++) {
    for (const { milliseconds, runs, times } of round % 2 === 0 ? timed : timed.toReversed()) {
      times.push(await milliseconds(runs));
    }
  }
  return Object.fromEntries(timed.map(({ label, times }) => [label, summarize(times)]));
}
