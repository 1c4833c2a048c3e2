import type { Bar } from './bars.js';
import type { PeerName } from './peers/peer.js';
import {
  type ExpertsWorkload,
  type FeedForwardShape,
  type ProductWorkload,
  selectedExperts,
  type Workload,
} from './workload.js';

/** Who does what in a case. */
export interface Participant {
  peer: PeerName;
  threads: number;
  workload: Workload;
}

/** A ratio of two participants' median times. */
export interface RowPlan {
  name: string;
  /** The label of the participant whose time is divided. */
  time: string;
  /** The label of the one by whose time it is divided. */
  by: string;
  /** Absent where the ratio is there to be known only. */
  bar?: Bar;
}

/** Participants that are timed in turns, and the rows that come of it. */
export interface Case {
  name: string;
  /** By label. */
  participants: Record<string, Participant>;
  rows: RowPlan[];
  /** At most so many rounds, where one takes long. */
  maxRounds?: number;
}

/** What the cases depend on. */
export interface Conditions {
  /** Whether our kernels use relaxed SIMD here, which raises some bars. */
  relaxedSimd: boolean;
  /** Threads of every participant of the expert op's cases. */
  threads: number;
}

/** All cases but that of memory. */
export function timedCases({ relaxedSimd, threads }: Conditions): Case[] {
  const expertCases = [128, 32].flatMap((expertSize) =>
    [197, 1].map((rows) => expertsCase(expertSize, rows, { relaxedSimd, threads })),
  );
  return [
    productCase(relaxedSimd),
    batchedCase('batched [16, 4, 64, 32]·[16, 4, 32, 64]', {
      a: [16, 4, 64, 32],
      b: [16, 4, 32, 64],
    }),
    batchedCase('batched [16, 4, 64, 32]·[16, 4, 64, 32]ᵀ', {
      a: [16, 4, 64, 32],
      b: [16, 4, 64, 32],
      transposeB: true,
    }),
    trainingCase(),
    ...expertCases,
    gatedCase(threads),
    threadsCase(),
  ];
}

function productCase(relaxedSimd: boolean): Case {
  const name = 'product [197×768]·[768×3072]';
  const plain: ProductWorkload = { kind: 'product', a: [197, 768], b: [768, 3072] };
  const transposedA: ProductWorkload = { ...plain, a: [768, 197], transposeA: true };
  const transposedB: ProductWorkload = { ...plain, b: [3072, 768], transposeB: true };
  const both: ProductWorkload = { ...transposedA, ...transposedB, a: transposedA.a };
  const by = (peer: PeerName, workload: Workload): Participant => ({ peer, threads: 1, workload });
  const withinOf = (label: string): RowPlan => ({
    name: `${name}: ${label} / untransposed`,
    time: label,
    by: 'd2dmoe',
    bar: { atMost: 1.15 },
  });
  return {
    name,
    participants: {
      d2dmoe: by('d2dmoe', plain),
      transposeA: by('d2dmoe', transposedA),
      transposeB: by('d2dmoe', transposedB),
      'transposeA and B': by('d2dmoe', both),
      ...(relaxedSimd && { 'd2dmoe-simd': by('d2dmoe-simd', plain) }),
      'tfjs-wasm': by('tfjs-wasm', plain),
      'onnxruntime-node': by('onnxruntime-node', plain),
      'onnxruntime-web': by('onnxruntime-web', plain),
    },
    rows: [
      {
        name: `${name}: tfjs-wasm / d2dmoe`,
        time: 'tfjs-wasm',
        by: 'd2dmoe',
        bar: { atLeast: relaxedSimd ? 1.8 : 1.35 },
      },
      ...(relaxedSimd
        ? [
            {
              name: `${name}: tfjs-wasm / d2dmoe without relaxed SIMD`,
              time: 'tfjs-wasm',
              by: 'd2dmoe-simd',
              bar: { atLeast: 1.35 },
            },
          ]
        : []),
      ...['transposeA', 'transposeB', 'transposeA and B'].map(withinOf),
      ...overPeers(name, 'd2dmoe', ['onnxruntime-node', 'onnxruntime-web']),
    ],
  };
}

function batchedCase(name: string, operands: Omit<ProductWorkload, 'kind'>): Case {
  const workload: Workload = { kind: 'product', ...operands };
  return {
    name,
    participants: {
      d2dmoe: { peer: 'd2dmoe', threads: 1, workload },
      'tfjs-wasm': { peer: 'tfjs-wasm', threads: 1, workload },
    },
    rows: overPeers(name, 'd2dmoe', ['tfjs-wasm'], { atLeast: 10 }),
  };
}

function trainingCase(): Case {
  const name = 'training step of GPT-2 (d 128, 4 layers, batch 16 × 64)';
  const workload: Workload = { kind: 'trainingStep' };
  return {
    name,
    participants: {
      d2dmoe: { peer: 'd2dmoe', threads: 1, workload },
      'tfjs-wasm': { peer: 'tfjs-wasm', threads: 1, workload },
    },
    rows: [
      {
        name: `${name}: d2dmoe / tfjs-wasm`,
        time: 'd2dmoe',
        by: 'tfjs-wasm',
        bar: { atMost: 1 / 8 },
      },
    ],
    maxRounds: 5,
  };
}

function expertsCase(expertSize: number, rows: number, { relaxedSimd, threads }: Conditions): Case {
  const name = `experts of ${expertSize}, N = ${rows}`;
  const shape: FeedForwardShape = { rows, dModel: 768, hidden: 3072, gated: false };
  const dense: Workload = { kind: 'feedForward', ...shape };
  const fractions = relaxedSimd ? [0.1, 0.2, 0.4] : [0.1, 0.2, 0.3, 0.4];
  const fastUpTo = relaxedSimd ? 0.4 : 0.3;
  const peers = ['tfjs-wasm', 'onnxruntime-node', 'onnxruntime-web'] as const;
  return {
    name,
    participants: {
      dense: { peer: 'd2dmoe', threads, workload: dense },
      ...Object.fromEntries(
        fractions.map((fraction) => [
          `f = ${fraction}`,
          { peer: 'd2dmoe' as const, threads, workload: experts(shape, expertSize, fraction) },
        ]),
      ),
      ...Object.fromEntries(
        // tfjs's backend has one thread in Node.
        peers
          .filter((peer) => peer !== 'tfjs-wasm' || threads === 1)
          .map((peer) => [peer, { peer, threads, workload: dense }]),
      ),
    },
    rows: [
      ...fractions.map((fraction) => ({
        name: `${name}: ${described(shape, expertSize, fraction)} / dense`,
        time: `f = ${fraction}`,
        by: 'dense',
        bar: { atMost: Number((fraction + 0.1).toFixed(2)) },
      })),
      ...fractions.map((fraction) => ({
        name: `${name}: onnxruntime-node dense / ${described(shape, expertSize, fraction)}`,
        time: 'onnxruntime-node',
        by: `f = ${fraction}`,
        ...(fraction <= fastUpTo && { bar: { atLeast: 1 } }),
      })),
      ...overPeers(`${name}, dense`, 'dense', threads === 1 ? peers : peers.slice(1)),
    ],
  };
}

function gatedCase(threads: number): Case {
  const name = 'gated FFN, d 2048, hidden 16384, N = 1';
  const shape: FeedForwardShape = { rows: 1, dModel: 2048, hidden: 16_384, gated: true };
  const dense: Workload = { kind: 'feedForward', ...shape };
  const workload = experts(shape, 128, 0.2);
  const part = described(shape, 128, 0.2);
  return {
    name,
    participants: {
      dense: { peer: 'd2dmoe', threads, workload: dense },
      'f = 0.2': { peer: 'd2dmoe', threads, workload },
      'onnxruntime-node': { peer: 'onnxruntime-node', threads, workload: dense },
    },
    rows: [
      { name: `${name}: dense / ${part}`, time: 'dense', by: 'f = 0.2', bar: { atLeast: 4 } },
      {
        name: `${name}: onnxruntime-node dense / ${part}`,
        time: 'onnxruntime-node',
        by: 'f = 0.2',
        bar: { atLeast: 3 },
      },
      ...overPeers(`${name}, dense`, 'dense', ['onnxruntime-node']),
    ],
  };
}

function threadsCase(): Case {
  const name = '2 threads, N = 197';
  const shape: FeedForwardShape = { rows: 197, dModel: 768, hidden: 3072, gated: false };
  const workloads: Record<string, Workload> = {
    'product [197×768]·[768×3072]': { kind: 'product', a: [197, 768], b: [768, 3072] },
    'dense FFN': { kind: 'feedForward', ...shape },
    'experts of 128, f = 0.2': experts(shape, 128, 0.2),
    'experts of 32, f = 0.2': experts(shape, 32, 0.2),
  };
  const label = (work: string, threads: number) => `${work} on ${threads}`;
  return {
    name,
    participants: Object.fromEntries(
      Object.entries(workloads).flatMap(([work, workload]) =>
        [1, 2].map((threads): [string, Participant] => [
          label(work, threads),
          { peer: 'd2dmoe', threads, workload },
        ]),
      ),
    ),
    rows: Object.keys(workloads).map((work) => ({
      name: `${name}: ${work}, 1 thread / 2 threads`,
      time: label(work, 1),
      by: label(work, 2),
      bar: { atLeast: 1.6 },
    })),
  };
}

function experts(shape: FeedForwardShape, expertSize: number, fraction: number): ExpertsWorkload {
  return { kind: 'experts', ...shape, expertSize, fraction };
}

/** "f = 0.1 (2 of 24)" */
function described(shape: FeedForwardShape, expertSize: number, fraction: number): string {
  const selected = selectedExperts(experts(shape, expertSize, fraction));
  return `f = ${fraction} (${selected} of ${shape.hidden / expertSize})`;
}

/** How many times longer peers take than we do. */
function overPeers(name: string, ours: string, peers: readonly string[], bar?: Bar): RowPlan[] {
  return peers.map((peer) => ({
    name: `${name}: ${peer} / d2dmoe`,
    time: peer,
    by: ours,
    ...(bar && { bar }),
  }));
}
