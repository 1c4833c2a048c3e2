import type { CudaBackend } from '@d2dmoe/backend-cuda';
import type { Random } from '@d2dmoe/core';
import { layerNorm } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { type Bar, holds } from '../bars.js';
import { multiply } from '../matrix.js';
import { failedRow, type Row } from '../row.js';
import { summarize } from '../statistics.js';
import { expectRight, normalized } from './check.js';

const OPS = 10_000;
const WARM_UP = 1_000;
/** Ops between two waits for the device: a full queue would make the host wait too, and that is not its cost. */
const BATCH = 500;
const SIZE = 64;
const EPSILON = 1e-5;

/** A small op, ready to run. */
interface SmallOp {
  /** What it gives, in float64, row by row. */
  expected: Float64Array;
  inputs: tf.Tensor[];
  run: () => tf.Tensor;
}

interface Plan {
  name: string;
  /** Microseconds. */
  bar?: Bar;
  make: (random: Random) => SmallOp;
}

const plans: readonly Plan[] = [
  {
    name: 'host time of tf.add of [16], µs',
    bar: { atMost: 12 },
    make: (random) => {
      const [a, b] = [draw(16, random), draw(16, random)];
      const [x, y] = [tf.tensor1d(a), tf.tensor1d(b)];
      const expected = Float64Array.from(a, (value, i) => value + (b[i] as number));
      return { expected, inputs: [x, y], run: () => tf.add(x, y) };
    },
  },
  {
    name: 'host time of tf.matMul of [64, 64], µs',
    make: (random) => {
      const [a, b] = [draw(SIZE * SIZE, random), draw(SIZE * SIZE, random)];
      const [x, y] = [tf.tensor2d(a, [SIZE, SIZE]), tf.tensor2d(b, [SIZE, SIZE])];
      const expected = multiply(a, b, SIZE, SIZE, SIZE);
      return { expected, inputs: [x, y], run: () => tf.matMul(x, y) };
    },
  },
  {
    name: 'host time of tf.softmax of [64, 64], µs',
    make: (random) => {
      const values = draw(SIZE * SIZE, random);
      const x = tf.tensor2d(values, [SIZE, SIZE]);
      const expected = byRow(values, (row) => {
        const powers = row.map((value) => Math.exp(value));
        const sum = powers.reduce((sum, value) => sum + value, 0);
        return powers.map((value) => value / sum);
      });
      return { expected, inputs: [x], run: () => tf.softmax(x) };
    },
  },
  {
    name: 'host time of layerNorm of [64, 64], µs',
    make: (random) => {
      const values = draw(SIZE * SIZE, random);
      const [scale, shift] = [draw(SIZE, random), draw(SIZE, random)];
      const x = tf.tensor2d(values, [SIZE, SIZE]);
      const [s, b] = [tf.tensor1d(scale), tf.tensor1d(shift)];
      const expected = byRow(values, (row) => normalized(row, scale, shift, EPSILON));
      return { expected, inputs: [x, s, b], run: () => layerNorm(x, s, b, EPSILON) };
    },
  },
];

/**
 * What one small op costs the host in steady state: the mean time until it is enqueued and its result disposed of again.
 *
 * @param ops How many are timed, after a tenth of them untimed.
 */
export function hostTimeRows(
  backend: CudaBackend,
  random: Random,
  wanted: (name: string) => boolean,
  ops = OPS,
): Row[] {
  return plans
    .filter(({ name }) => wanted(name))
    .map(({ name, bar, make }) => {
      const named = { name, ...(bar && { bar }) };
      try {
        const op = make(random);
        checkOp(name, op);
        enqueue(backend, op, Math.min(WARM_UP, ops));
        const times = enqueue(backend, op, ops);
        tf.dispose(op.inputs);
        const value = (1000 * times.reduce((sum, time) => sum + time, 0)) / times.length;
        const isHeld = bar === undefined || holds(bar, value);
        return { ...named, value, holds: isHeld, times: { host: summarize(times) } };
      } catch (error) {
        return failedRow(named, error);
      }
    });
}

/** @returns Milliseconds of the host per op, of each batch. */
function enqueue(backend: CudaBackend, { run }: SmallOp, ops: number): number[] {
  const times: number[] = [];
  for (let done = 0; done < ops; done += BATCH) {
    const count = Math.min(BATCH, ops - done);
    backend.synchronize();
    const begin = performance.now();
    for (let i = 0; i < count; i++) run().dispose();
    times.push((performance.now() - begin) / count);
  }
  backend.synchronize();
  return times;
}

function checkOp(name: string, { run, expected }: SmallOp): void {
  const before = tf.memory().numTensors;
  const out = run();
  const actual = out.dataSync<'float32'>();
  const columns = out.shape.at(-1) as number;
  out.dispose();
  const left = tf.memory().numTensors - before;
  if (left !== 0) throw new Error(`It leaves ${left} tensors behind.`);
  expectRight(`the result (${name})`, actual, { values: expected, columns });
}

function draw(size: number, random: Random): Float32Array {
  return Float32Array.from({ length: size }, () => random.normal());
}

function byRow(values: Float32Array, f: (row: Float64Array) => Float64Array): Float64Array {
  const out = new Float64Array(values.length);
  for (let start = 0; start < values.length; start += SIZE) {
    out.set(f(Float64Array.from(values.subarray(start, start + SIZE))), start);
  }
  return out;
}
