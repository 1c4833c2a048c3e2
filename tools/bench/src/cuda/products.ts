import { type CudaBackend, ltProducts, matMul } from '@d2dmoe/backend-cuda';
import type { Random } from '@d2dmoe/core';
import { type Bar, holds } from '../bars.js';
import { failedRow, type Row } from '../row.js';
import { summarize, type Times } from '../statistics.js';
import { settle } from './torch.js';

/** A bf16 product [m, k] · [k, n] with a bf16 result. */
export interface ProductCase {
  name: string;
  m: number;
  n: number;
  k: number;
  transposeA?: boolean;
  transposeB?: boolean;
  /** What torch's time over ours has to reach: through cuBLASLt, and with cuBLASLt hidden. */
  bars?: { library: Bar; own: Bar };
}

/** The products that have bars, and those of the backward pass of the second. */
export const productCases: readonly ProductCase[] = [
  {
    name: 'bf16 8192^3',
    m: 8192,
    n: 8192,
    k: 8192,
    bars: { library: { atLeast: 0.95 }, own: { atLeast: 0.7 } },
  },
  {
    name: 'bf16 [12288x256]·[256x1024]',
    m: 12_288,
    n: 1024,
    k: 256,
    bars: { library: { atLeast: 0.8 }, own: { atLeast: 0.6 } },
  },
  { name: 'bf16 gradient of its input', m: 12_288, n: 256, k: 1024, transposeB: true },
  { name: 'bf16 gradient of its weights', m: 256, n: 1024, k: 12_288, transposeA: true },
];

/** Values are drawn once for this many elements and repeated; a prime, so that no line of a matrix repeats another. */
const PERIOD = 1_000_003;
/** Where in the period the right operand begins. */
const SHIFT = 123_457;
/** Elements of the result that are compared with float64. */
const SAMPLES = 64;
const BAR = 1e-2;
/** Bytes that the input sets have together at least, several times the second-level cache. */
const ROTATED_BYTES = 256 * 2 ** 20;
/** Not more sets than this, however small they are. */
const MAX_SETS = 16;
const TURN_MS = 2;

interface InputSet {
  a: number;
  b: number;
  out: number;
  /** Element i of a is pattern[i % PERIOD], of b pattern[(i + SHIFT) % PERIOD]. */
  pattern: Float32Array;
  free(): void;
}

/** Random values in [-1, 1), each the nearest bf16, halves to even. */
function drawPattern(random: Random): Float32Array {
  const values = new Float32Array(PERIOD);
  for (let i = 0; i < PERIOD; i++) values[i] = 2 * random.uniform() - 1;
  const words = new Uint32Array(values.buffer);
  for (let i = 0; i < PERIOD; i++) {
    const word = words[i] as number;
    words[i] = (word + 0x7fff + ((word >>> 16) & 1)) & 0xffff0000;
  }
  return values;
}

/** Fills device memory with a bf16 pattern, begun at element `shift`. */
function fill(
  backend: CudaBackend,
  to: number,
  count: number,
  pattern: number,
  shift: number,
): void {
  const first = Math.min(count, PERIOD - shift);
  backend.copy(to, pattern + shift * 2, first * 2);
  backend.copy(to + first * 2, pattern, Math.min(count - first, shift) * 2);
  for (let done = PERIOD; done < count; done *= 2) {
    backend.copy(to + done * 2, to, Math.min(done, count - done) * 2);
  }
}

function makeSets(backend: CudaBackend, c: ProductCase, random: Random): InputSet[] {
  const bytes = 2 * (c.m * c.k + c.k * c.n + c.m * c.n);
  const sets = Math.min(MAX_SETS, Math.max(2, Math.ceil(ROTATED_BYTES / bytes)));
  return Array.from({ length: sets }, () => {
    const pattern = drawPattern(random);
    const values = backend.makeTensorInfo([PERIOD], 'float32', pattern.slice());
    const a = backend.scratch(c.m * c.k * 2);
    const b = backend.scratch(c.k * c.n * 2);
    const out = backend.scratch(c.m * c.n * 2);
    fill(backend, a.pointer, c.m * c.k, backend.pointer16(values), 0);
    fill(backend, b.pointer, c.k * c.n, backend.pointer16(values), SHIFT);
    backend.disposeIntermediateTensorInfo(values);
    const free = () => {
      for (const memory of [a, b, out]) memory.free();
    };
    return { a: a.pointer, b: b.pointer, out: out.pointer, pattern, free };
  });
}

function enqueue(backend: CudaBackend, c: ProductCase, { a, b, out }: InputSet): void {
  const { m, n, k, transposeA = false, transposeB = false } = c;
  matMul(backend, { a, b, out, m, n, k, transposeA, transposeB, operands: 'bf16' });
}

/** ‖out − reference‖ / ‖reference‖ over some elements, the reference summed in float64. */
function sampledError(backend: CudaBackend, c: ProductCase, set: InputSet, random: Random): number {
  const { m, n, k, transposeA, transposeB } = c;
  const { pattern } = set;
  const at = (i: number) => pattern[i % PERIOD] ?? Number.NaN;
  let difference = 0;
  let norm = 0;
  for (let sample = 0; sample < SAMPLES; sample++) {
    const row = Math.floor(random.uniform() * m);
    const column = Math.floor(random.uniform() * n);
    let sum = 0;
    for (let s = 0; s < k; s++) {
      sum +=
        at(transposeA ? s * m + row : row * k + s) *
        at(SHIFT + (transposeB ? column * k + s : s * n + column));
    }
    const one = backend.output16([1]);
    backend.copy(one.pointer, set.out + (row * n + column) * 2, 2);
    const got = backend.hostValues(one)[0] ?? Number.NaN;
    backend.disposeIntermediateTensorInfo(one);
    difference += (got - sum) ** 2;
    norm += sum ** 2;
  }
  return Math.sqrt(difference / norm);
}

/**
 * Checks a product against float64 and times it, over inputs that rotate.
 *
 * @param isOwn Whether cuBLASLt is hidden, so that our own kernel runs.
 * @returns Milliseconds of one product; each run is the mean of a turn of about 2 ms.
 * @throws Error where cuBLASLt was asked for and is not there, or a result is wrong.
 */
export async function timeProduct(
  backend: CudaBackend,
  c: ProductCase,
  isOwn: boolean,
  random: Random,
  runs = 21,
): Promise<Times> {
  const library = ltProducts(backend);
  if (!isOwn && library.file === undefined) throw new Error('cuBLASLt was not found.');
  const wasEnabled = library.enabled;
  library.enabled = !isOwn;
  const sets = makeSets(backend, c, random);
  try {
    for (const set of sets) backend.memset(set.out, c.m * c.n * 2);
    for (const set of sets) enqueue(backend, c, set);
    for (const set of [sets[0], sets.at(-1)]) {
      const error = set ? sampledError(backend, c, set, random) : Number.NaN;
      if (!(error <= BAR)) throw new Error(`The relative error is ${error}, above ${BAR}.`);
    }
    const turn = (count: number) => {
      for (let i = 0; i < count; i++) {
        const set = sets[i % sets.length];
        if (set) enqueue(backend, c, set);
      }
    };
    // Replays of a graph, so that a small product's time is the card's and not that of enqueueing it.
    const once = await replays(backend, () => turn(sets.length), 1);
    const perTurn = Math.min(
      1000,
      Math.max(1, Math.round((TURN_MS * sets.length) / (once[0] as number))),
    );
    const times = await replays(backend, () => turn(perTurn), runs);
    return summarize(times.map((time) => time / perTurn));
  } finally {
    library.enabled = wasEnabled;
    for (const set of sets) set.free();
  }
}

/** Milliseconds of each replay of recorded work, after one that is not counted. */
async function replays(backend: CudaBackend, work: () => void, runs: number): Promise<number[]> {
  const graph = backend.capture(work);
  try {
    graph.launch();
    const times: number[] = [];
    for (let run = 0; run < runs; run++) {
      const { kernelMs } = await backend.time(() => graph.launch());
      times.push(Number(kernelMs));
    }
    return times;
  } finally {
    graph.dispose();
  }
}

/** The products of a first look. */
export const smallProductCases: readonly ProductCase[] = [
  {
    name: 'bf16 [128x64]·[64x96]',
    m: 128,
    n: 96,
    k: 64,
    bars: { library: { atLeast: 0.8 }, own: { atLeast: 0.6 } },
  },
];

/** What the products' rows are made of. */
export interface ProductPlans {
  cases?: readonly ProductCase[];
  /** torch's times by a case's name: what peers/torch_products.py prints. */
  torch: (cases: readonly ProductCase[]) => Promise<unknown>;
  wanted: (name: string) => boolean;
}

/**
 * The products' rows: torch's time over ours, through cuBLASLt and by our own kernels. Without torch there are our times
 * alone, and no row holds.
 */
export async function productRows(
  backend: CudaBackend,
  random: Random,
  { cases = productCases, torch, wanted }: ProductPlans,
): Promise<Row[]> {
  const plans = cases
    .flatMap((c) =>
      (['library', 'own'] as const).map((route) => {
        const participant = route === 'own' ? 'cuda-own' : 'cuda-cublaslt';
        const bar = c.bars?.[route];
        const name = `product ${c.name}: torch / ${participant}`;
        return { c, route, participant, named: { name, ...(bar && { bar }) } };
      }),
    )
    .filter(({ named }) => wanted(named.name));
  if (plans.length === 0) return [];
  const timed = await settle(() => torch(cases.filter((c) => plans.some((plan) => plan.c === c))));
  const peer = 'value' in timed ? (timed.value as Record<string, Times>) : {};
  const absent = 'error' in timed ? timed.error : 'torch has not timed it';
  const rows: Row[] = [];
  for (const { c, route, participant, named } of plans) {
    try {
      const ours = await timeProduct(backend, c, route === 'own', random);
      const theirs = peer[c.name];
      if (theirs === undefined) {
        rows.push({ ...failedRow(named, absent), times: { [participant]: ours } });
        continue;
      }
      const value = theirs.median / ours.median;
      const times = { torch: theirs, [participant]: ours };
      rows.push({ ...named, value, holds: !named.bar || holds(named.bar, value), times });
    } catch (error) {
      rows.push(failedRow(named, error));
    }
  }
  return rows;
}
