// The expert op on the card, beside the same layer dense: through cuBLASLt on 16-bit matrices, and torch's.
import { type CudaBackend, type HalfType, kernel, ltProducts, matMul } from '@d2dmoe/backend-cuda';
import type { Random } from '@d2dmoe/core';
import {
  dynamicKExperts,
  type FeedForwardWeights,
  type PackedExperts,
  packExperts,
  packRouter,
  routedExperts,
} from '@d2dmoe/kernels';
import {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBFloat16,
  float32ToFloat16,
} from '@d2dmoe/safetensors';
import * as tf from '@tensorflow/tfjs-core';
import { type Bar, holds } from '../bars.js';
import { failedRow, type Row } from '../row.js';
import type { Times } from '../statistics.js';
import { timeInTurns } from './timing.js';
import { settle } from './torch.js';

/** One layer, executed for `rows` rows at several densities. */
export interface ExpertsCase {
  readonly rows: number;
  readonly d: number;
  readonly experts: number;
  readonly expertSize: number;
  readonly isGated?: boolean;
  /** Width of a router that is run with it. */
  readonly router?: number;
  /** Of inputs, weights and outputs; default bf16. */
  readonly type?: HalfType;
  /** What the op may take of the dense layer's time at most, by share of experts that each row runs. */
  readonly bars: Readonly<Record<string, number>>;
}

const inBothTypes = (c: ExpertsCase): ExpertsCase[] => [c, { ...c, type: 'fp16' }];

export const expertsCases: readonly ExpertsCase[] = [
  ...inBothTypes({
    rows: 50_432,
    d: 768,
    experts: 24,
    expertSize: 128,
    bars: { 1: 1.15, 0.4: 0.62, 0.2: 0.36, 0.1: 0.22 },
  }),
  ...inBothTypes({
    rows: 50_432,
    d: 768,
    experts: 96,
    expertSize: 32,
    bars: { 0.2: 0.85, 0.1: 0.5 },
  }),
  { rows: 50_432, d: 768, experts: 768, expertSize: 4, bars: { 0.4: 1.1, 0.2: 1.1 } },
  ...inBothTypes({
    rows: 197,
    d: 768,
    experts: 24,
    expertSize: 128,
    bars: { 0.4: 0.8, 0.1: 0.5 },
  }),
  { rows: 1, d: 768, experts: 24, expertSize: 128, bars: { 0.4: 0.6, 0.2: 0.45 } },
  { rows: 1, d: 768, experts: 768, expertSize: 4, bars: { 0.2: 0.5 } },
  { rows: 16, d: 768, experts: 768, expertSize: 4, bars: { 0.2: 0.8 } },
  {
    rows: 1,
    d: 2048,
    experts: 128,
    expertSize: 128,
    isGated: true,
    router: 128,
    bars: { 0.2: 0.29 },
  },
  { rows: 16, d: 2048, experts: 128, expertSize: 128, isGated: true, bars: { 0.2: 1 } },
];

const typeOf = ({ type = 'bf16' }: ExpertsCase): HalfType => type;

/** The cases of a first look. */
export const smallExpertsCases: readonly ExpertsCase[] = [
  { rows: 40, d: 32, experts: 6, expertSize: 8, type: 'fp16', bars: { 0.5: 1 } },
  { rows: 1, d: 32, experts: 6, expertSize: 8, isGated: true, router: 16, bars: { 0.5: 1 } },
];

/** Values are drawn once for this many elements and repeated; a prime, so that no row repeats another. */
const PERIOD = 1_000_003;
/** Bytes of weights, rows and results that a graph's layers have together at least, several times the cache. */
const ROTATED_BYTES = 256 * 2 ** 20;
/** Calls of a graph, over its layers in turns: what passes between two graphs counts for little. */
const CALLS = 16;
const SAMPLED_ROWS = 4;
/** Greatest relative error of a row against float64. */
const TOLERANCE: Record<HalfType, number> = { bf16: 5e-3, fp16: 1e-3 };
/** The nearest values of a type. */
const ROUNDED: Record<HalfType, (values: Float32Array) => Float32Array> = {
  bf16: (values) => bfloat16ToFloat32(float32ToBFloat16(values)),
  fp16: (values) => float16ToFloat32(float32ToFloat16(values)),
};
const STORAGE = { bf16: 'bfloat16', fp16: 'float16' } as const;
const RELU = 0;
const activateKernel = (type: string) =>
  kernel('experts-composed', `experts_activate_${type}`, 'p p p p p l i i i');
const activateKernels = { bf16: activateKernel('bf16'), fp16: activateKernel('f16') };

/** A matrix of random values of the layer's type that the host knows as well. */
interface Known {
  tensor: tf.Tensor2D;
  at(row: number, column: number): number;
}

/** One layer of a graph: what the op and the dense layer read. */
interface Layer {
  x: Known;
  up: Known;
  gate: Known | undefined;
  down: Known;
  router: { hidden: Known; output: Known } | undefined;
  /** [rows, experts] */
  mask: Uint8Array;
  selection: tf.Tensor2D;
  packed: PackedExperts;
}

/** Makes matrices of values in [-1, 1), times a power of two. */
class Matrices {
  readonly #backend: CudaBackend;
  readonly #pattern: Float32Array;
  readonly #onDevice: tf.Tensor1D;
  #shift = 0;

  constructor(backend: CudaBackend, random: Random, type: HalfType) {
    this.#backend = backend;
    const values = new Float32Array(PERIOD);
    for (let i = 0; i < PERIOD; i++) values[i] = 2 * random.uniform() - 1;
    this.#pattern = ROUNDED[type](values);
    this.#onDevice = tf.tensor1d(this.#pattern);
  }

  make(rows: number, columns: number, power: number): Known {
    const shift = this.#shift;
    this.#shift = (shift + 123_457) % PERIOD;
    const scale = 2 ** power;
    const backend = this.#backend;
    const count = rows * columns;
    const out = backend.output([rows, columns], 'float32');
    const from = backend.pointer(this.#onDevice);
    const first = Math.min(count, PERIOD - shift);
    backend.copy(out.pointer, from + shift * 4, first * 4);
    backend.copy(out.pointer + first * 4, from, Math.min(count - first, shift) * 4);
    for (let done = PERIOD; done < count; done *= 2) {
      backend.copy(out.pointer + done * 4, out.pointer, Math.min(done, count - done) * 4);
    }
    const values = tf.engine().makeTensorFromTensorInfo(out) as tf.Tensor2D;
    const tensor = tf.mul<tf.Tensor2D>(values, scale);
    values.dispose();
    const pattern = this.#pattern;
    return {
      tensor,
      at: (row, column) => (pattern[(row * columns + column + shift) % PERIOD] as number) * scale,
    };
  }

  dispose(): void {
    this.#onDevice.dispose();
  }
}

/** Each row runs exactly `count` experts, drawn without replacement. */
function drawMask(rows: number, experts: number, count: number, random: Random): Uint8Array {
  const mask = new Uint8Array(rows * experts);
  const order = Uint32Array.from({ length: experts }, (_, i) => i);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < count; i++) {
      const j = i + random.integer(experts - i);
      const expert = order[j] as number;
      order[j] = order[i] as number;
      order[i] = expert;
      mask[row * experts + expert] = 1;
    }
  }
  return mask;
}

/** log2 of about 1 / sqrt(n / 3): keeps sums of n products of the order of 1. */
const powerFor = (n: number) => -Math.round(Math.log2(n / 3) / 2);

function makeLayer(c: ExpertsCase, count: number, matrices: Matrices, random: Random): Layer {
  const { rows, d, experts, expertSize, isGated = false, router } = c;
  const hidden = experts * expertSize;
  const x = matrices.make(rows, d, 0);
  const up = matrices.make(hidden, d, powerFor(d));
  const gate = isGated ? matrices.make(hidden, d, powerFor(d)) : undefined;
  const down = matrices.make(hidden, d, powerFor(count * expertSize));
  const weights: FeedForwardWeights = {
    up: up.tensor,
    down: down.tensor,
    activation: 'relu',
    ...(gate && { gate: gate.tensor }),
  };
  const mask = drawMask(rows, experts, count, random);
  return {
    x,
    up,
    gate,
    down,
    router:
      router === undefined
        ? undefined
        : {
            hidden: matrices.make(router, d, powerFor(d)),
            output: matrices.make(experts, router, 0),
          },
    mask,
    selection: tf.tensor2d(mask, [rows, experts], 'bool'),
    packed: packExperts(weights, expertSize, { storage: STORAGE[typeOf(c)] }),
  };
}

function disposeLayer({ x, up, gate, down, router, selection, packed }: Layer): void {
  for (const known of [x, up, gate, down, router?.hidden, router?.output]) known?.tensor.dispose();
  selection.dispose();
  packed.dispose();
}

/** Norms this close to the last that is chosen may be chosen in its place: the op rounds the router's hidden layer to bf16. */
const CLOSE = 0.02;

/** Every set of experts that a row may run: its mask's, or those that its router puts first by norms in float64. */
function choicesOf(c: ExpertsCase, layer: Layer, row: number, count: number): number[][] {
  const { router, x } = layer;
  const all = Array.from({ length: c.experts }, (_, i) => i);
  if (router === undefined) return [all.filter((i) => layer.mask[row * c.experts + i] === 1)];
  const width = c.router ?? 0;
  const hidden = Array.from({ length: width }, (_, w) => {
    let sum = 0;
    for (let i = 0; i < c.d; i++) sum += router.hidden.at(w, i) * x.at(row, i);
    return Math.max(sum, 0);
  });
  const norms = all.map((e) =>
    Math.abs(hidden.reduce((sum, h, w) => sum + h * router.output.at(e, w), 0)),
  );
  const last = norms.toSorted((a, b) => b - a)[count - 1] as number;
  const norm = (e: number) => norms[e] as number;
  const sure = all.filter((e) => norm(e) > last * (1 + CLOSE));
  const close = all.filter((e) => Math.abs(norm(e) - last) <= last * CLOSE);
  return subsets(close, count - sure.length).map((chosen) => [...sure, ...chosen]);
}

/** All subsets of a size. */
function subsets(from: readonly number[], size: number): number[][] {
  if (size === 0) return [[]];
  return from.flatMap((first, i) =>
    subsets(from.slice(i + 1), size - 1).map((rest) => [first, ...rest]),
  );
}

/** What one expert adds to a row, in float64. */
function contribution(
  { d, expertSize }: ExpertsCase,
  { x, up, gate, down }: Layer,
  row: number,
  expert: number,
): Float64Array {
  const sum = new Float64Array(d);
  for (let j = expert * expertSize; j < (expert + 1) * expertSize; j++) {
    let projected = 0;
    let gated = 0;
    for (let i = 0; i < d; i++) {
      projected += up.at(j, i) * x.at(row, i);
      if (gate) gated += gate.at(j, i) * x.at(row, i);
    }
    const activation = gate ? Math.max(gated, 0) * projected : Math.max(projected, 0);
    for (let o = 0; o < d; o++) sum[o] = (sum[o] as number) + activation * down.at(j, o);
  }
  return sum;
}

/** ‖out − reference‖ / ‖reference‖ of one row, for the nearest of the references that it may have. */
function rowError(
  c: ExpertsCase,
  layer: Layer,
  row: number,
  count: number,
  actual: ArrayLike<number>,
): number {
  const known = new Map<number, Float64Array>();
  const of = (expert: number): Float64Array => {
    const values = known.get(expert) ?? contribution(c, layer, row, expert);
    known.set(expert, values);
    return values;
  };
  const errors = choicesOf(c, layer, row, count).map((experts) => {
    const expected = new Float64Array(c.d);
    for (const expert of experts) {
      of(expert).forEach((value, o) => (expected[o] = (expected[o] as number) + value));
    }
    const off = expected.map((value, o) => value - (actual[o] as number));
    return Math.hypot(...off) / Math.hypot(...expected);
  });
  return Math.min(...errors);
}

/** Enqueues the same layer dense on matrices of 16 bits, bias and activation in cuBLASLt's epilogues where it has them. */
function dense(backend: CudaBackend, c: ExpertsCase, { x, up, gate, down }: Layer, zeros: Zeros) {
  const { rows, d, experts, expertSize } = c;
  const type = typeOf(c);
  const hidden = experts * expertSize;
  const pointer = (tensor: tf.Tensor) => backend.pointer16(tensor, type);
  const first = backend.output16([rows, hidden], type);
  const out = backend.output16([rows, d], type);
  const product = { a: pointer(x.tensor), m: rows, n: hidden, k: d, transposeB: true };
  const is16 = { operands: type, result: type } as const;
  const scratch = [first, out];
  const b = pointer(up.tensor);
  if (gate === undefined) {
    const bias = pointer(zeros.values);
    matMul(backend, { ...product, b, out: first.pointer, bias, activation: 'relu', ...is16 });
  } else {
    const gated = backend.output16([rows, hidden], type);
    scratch.push(gated);
    matMul(backend, { ...product, b, out: first.pointer, ...is16 });
    matMul(backend, {
      ...product,
      b: pointer(gate.tensor),
      out: gated.pointer,
      ...is16,
    });
    const none = backend.pointer(zeros.values);
    backend.launch(activateKernels[type], backend.blocks(rows * hidden), 256, [
      first.pointer,
      gated.pointer,
      backend.pointer(zeros.everyone),
      none,
      none,
      rows,
      1,
      hidden,
      RELU,
    ]);
  }
  const second = { a: first.pointer, b: pointer(down.tensor), out: out.pointer };
  const bias = pointer(zeros.values);
  matMul(backend, { ...second, m: rows, n: d, k: hidden, bias, ...is16 });
  for (const info of scratch) backend.disposeIntermediateTensorInfo(info);
}

/** Biases of nothing, and a mask that lets every row run the whole layer. */
interface Zeros {
  values: tf.Tensor1D;
  everyone: tf.Tensor2D;
}

const nameOf = (c: ExpertsCase, share: number) =>
  `experts ${c.experts} x ${c.expertSize}${c.isGated ? ' gated' : ''}, d ${c.d}, N ${c.rows}, ` +
  (c.type === undefined ? '' : `${c.type}, `) +
  `${Math.round(share * 100)} %${c.router === undefined ? '' : ' with router'}: ours / dense`;

async function timeCase(
  backend: CudaBackend,
  c: ExpertsCase,
  share: number,
  random: Random,
): Promise<Row['times']> {
  const type = typeOf(c);
  const count = Math.round(share * c.experts);
  const hidden = c.experts * c.expertSize;
  const bytes = (hidden * (c.isGated ? 3 : 2) + 2 * c.rows) * c.d * 2;
  const layers = Math.max(2, Math.min(CALLS, Math.ceil(ROTATED_BYTES / bytes)));
  const matrices = new Matrices(backend, random, type);
  const all = Array.from({ length: layers }, () => makeLayer(c, count, matrices, random));
  const zeros: Zeros = {
    values: tf.zeros([Math.max(hidden, c.d)]),
    everyone: tf.ones([c.rows, 1], 'bool'),
  };
  const routers = all.map(({ router, packed }) =>
    router === undefined
      ? undefined
      : packRouter({ hidden: router.hidden.tensor, output: router.output.tensor }, packed),
  );
  const ours = (layer: Layer, i: number): tf.Tensor2D => {
    const router = routers[i];
    const rule = { rule: 'topK', value: count } as const;
    const options = { expectedDensity: share };
    const out = router
      ? routedExperts(layer.x.tensor, router, rule, layer.packed, options)
      : dynamicKExperts(layer.x.tensor, layer.selection, layer.packed, options);
    // Outputs are in 16 bits on both sides.
    backend.pointer16(out, type);
    return out;
  };
  try {
    for (const [i, layer] of all.entries()) {
      dense(backend, c, layer, zeros);
      const out = ours(layer, i);
      if (i === 0 || i === layers - 1) {
        for (let sample = 0; sample < SAMPLED_ROWS; sample++) {
          const row = random.integer(c.rows);
          const actual = tf.tidy(() => tf.slice(out, [row, 0], [1, c.d]).dataSync());
          const error = rowError(c, layer, row, count, actual);
          if (!(error <= TOLERANCE[type])) {
            throw new Error(`A row is off by ${error.toExponential(1)} of its norm.`);
          }
        }
      }
      out.dispose();
    }
    /** A graph of `CALLS` calls. */
    const capture = (call: (layer: Layer, i: number) => void) =>
      backend.capture(() => {
        for (let n = 0; n < CALLS; n++) call(all[n % layers] as Layer, n % layers);
      });
    const oursGraph = capture((layer, i) => ours(layer, i).dispose());
    const denseGraph = capture((layer) => dense(backend, c, layer, zeros));
    try {
      const times = await timeInTurns(backend, {
        ours: () => oursGraph.launch(),
        dense: () => denseGraph.launch(),
      });
      return Object.fromEntries(
        Object.entries(times).map(([label, { median, low, high, runs }]) => [
          label,
          { median: median / CALLS, low: low / CALLS, high: high / CALLS, runs },
        ]),
      );
    } finally {
      oursGraph.dispose();
      denseGraph.dispose();
    }
  } finally {
    for (const layer of all) disposeLayer(layer);
    for (const router of routers) router?.dispose();
    tf.dispose(Object.values(zeros));
    matrices.dispose();
  }
}

/** What the experts' rows are made of. */
export interface ExpertsPlans {
  cases?: readonly ExpertsCase[];
  /** torch's time of a dense layer, in milliseconds by "rows,d,hidden,gated,type": what peers/torch_layers.py prints. */
  torch: (layers: readonly string[]) => Promise<unknown>;
  wanted: (name: string) => boolean;
}

/**
 * The experts' rows: the op's time over the dense layer's, both in 16 bits, in replays of a CUDA graph over layers whose
 * weights exceed the cache, each with its own rows and mask. Beside them torch's dense layer where there is torch. One
 * after the other, as they are measured.
 */
export async function* expertsRows(
  backend: CudaBackend,
  random: Random,
  { cases = expertsCases, torch, wanted }: ExpertsPlans,
): AsyncGenerator<Row, void, undefined> {
  const plans = cases
    .flatMap((c) =>
      Object.entries(c.bars)
        .map(([share, atMost]) => ({ c, share: Number(share), bar: { atMost } }))
        .sort((a, b) => b.share - a.share),
    )
    .filter(({ c, share }) => wanted(nameOf(c, share)));
  if (plans.length === 0) return;
  const keyOf = (c: ExpertsCase) =>
    [c.rows, c.d, c.experts * c.expertSize, c.isGated ?? false, typeOf(c)].join();
  const timed = await settle(() => torch([...new Set(plans.map(({ c }) => keyOf(c)))]));
  const peer = 'value' in timed ? (timed.value as Record<string, Times>) : {};
  const { precision } = backend;
  try {
    for (const { c, share, bar } of plans) {
      backend.precision = typeOf(c);
      const named: { name: string; bar: Bar } = { name: nameOf(c, share), bar };
      try {
        if (ltProducts(backend).file === undefined) throw new Error('cuBLASLt was not found.');
        const times = await timeCase(backend, c, share, random);
        const value = (times?.['ours']?.median ?? Number.NaN) / (times?.['dense']?.median ?? 0);
        const torchs = peer[keyOf(c)];
        yield {
          ...named,
          value,
          holds: holds(bar, value),
          times: { ...times, ...(torchs && { torch: torchs }) },
        };
      } catch (error) {
        yield failedRow(named, error);
      }
    }
  } finally {
    backend.precision = precision;
  }
}
