import { setTimeout } from 'node:timers/promises';
import { holds } from './bars.js';
import type { Case, Participant, RowPlan } from './cases.js';
import { check } from './check.js';
import { PeerProcess } from './peer-process.js';
import { References } from './reference.js';
import { failedRow, type Row } from './row.js';
import { summarize } from './statistics.js';

/** How a case is timed. */
export interface Schedule {
  /** How often each participant gets its turn. */
  rounds: number;
  /** About how long a turn is, in milliseconds; at least one run. */
  turn: number;
}

/** After a turn, for threads that still spin and wait for work to go to sleep. */
const pause = 30;

/**
 * Runs a case: starts its peers, checks each participant's results, then times the participants in turns, so that what
 * else the machine does meanwhile touches all of them alike. Participants that fail take only their own rows with them.
 */
export async function runCase(
  { participants, rows, maxRounds = Number.POSITIVE_INFINITY }: Case,
  { rounds, turn }: Schedule,
): Promise<Row[]> {
  const peers = new Peers();
  const references = new References();
  const failures = new Map<string, unknown>();
  const runs = new Map<string, number>();
  const times = new Map<string, number[]>();
  try {
    for (const [label, participant] of wanted(participants, rows)) {
      try {
        const peer = await peers.get(participant);
        const results = await peer.prepare(label, participant.workload);
        check(participant.workload, results, references);
        const [first = 0] = await peer.time(label, 1);
        runs.set(label, Math.min(Math.max(Math.round(turn / first), 1), 500));
        times.set(label, []);
      } catch (error) {
        failures.set(label, error);
      }
    }
    const labels = [...times.keys()];
    for (let round = 0; round < Math.min(rounds, maxRounds); round++) {
      // Nobody always follows the same neighbour.
      for (const label of round % 2 === 0 ? labels : labels.toReversed()) {
        await setTimeout(pause);
        const peer = await peers.get(participants[label] as Participant);
        times.get(label)?.push(...(await peer.time(label, runs.get(label) as number)));
      }
    }
  } finally {
    peers.end();
  }
  return rows.map((row) => toRow(row, times, failures));
}

/** The participants that the rows need. */
function wanted(participants: Case['participants'], rows: readonly RowPlan[]) {
  const labels = new Set(rows.flatMap(({ time, by }) => [time, by]));
  return Object.entries(participants).filter(([label]) => labels.has(label));
}

function toRow(
  { name, bar, time, by }: RowPlan,
  times: ReadonlyMap<string, number[]>,
  failures: ReadonlyMap<string, unknown>,
): Row {
  for (const label of [time, by]) {
    if (failures.has(label)) return failedRow({ name, ...(bar && { bar }) }, failures.get(label));
  }
  const above = summarize(times.get(time) ?? []);
  const below = summarize(times.get(by) ?? []);
  const value = above.median / below.median;
  return {
    name,
    ...(bar && { bar }),
    value,
    holds: bar === undefined || holds(bar, value),
    times: { [time]: above, [by]: below },
  };
}

/** A process for each peer and number of threads, started when first asked for. */
class Peers {
  readonly #processes = new Map<string, PeerProcess>();

  async get({ peer, threads }: Participant): Promise<PeerProcess> {
    const key = `${peer} ${threads}`;
    const running = this.#processes.get(key);
    if (running !== undefined) return running;
    const process = new PeerProcess(peer, threads);
    this.#processes.set(key, process);
    await process.start();
    return process;
  }

  end(): void {
    for (const process of this.#processes.values()) process.end();
  }
}
