import { type CudaBackend, kernel } from '@d2dmoe/backend-cuda';
import type { Random } from '@d2dmoe/core';
import { activate, layerNorm, referenceActivate } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { holds } from '../bars.js';
import { failedRow, type Row } from '../row.js';
import type { Times } from '../statistics.js';
import { expectRight, normalized } from './check.js';
import { timeInTurns } from './timing.js';

const COLUMNS = 1024;
/** Rows of 1,024 floats in 256 MiB. */
const ROWS = 65_536;
/** Two sets of inputs in turns: together far more than the second-level cache holds. */
const SETS = 2;
/** Values are drawn once for this many elements and repeated; a prime, so that no row repeats another. */
const PERIOD = 1_000_003;
const SAMPLED_ROWS = 8;
const EPSILON = 1e-5;
const BAR = { atLeast: 0.85 };

/** The copy of 16-byte units between strided layouts, here between two runs: an axis, its divider, strides of 1. */
const copyKernel = kernel('arrays', 'arrays_copy_16', 'p p u i*31');

/** Random float32 values on the device that the host knows. */
interface Known {
  tensor: tf.Tensor2D;
  row(index: number): Float64Array;
}

/** What one run of every work reads. */
interface Inputs {
  x: Known;
  y: Known;
  /** The two halves of a matrix of the others' size. */
  left: Known;
  right: Known;
  scale: Known;
  shift: Known;
}

/** An op whose bandwidth is measured. */
interface Work {
  /** How often the bytes of x go over the memory's bus: each input is read once, each output written once. */
  passes: number;
  run(inputs: Inputs): tf.Tensor;
  /** A row of what it gives, in float64. */
  expected(inputs: Inputs, row: number): Float64Array;
}

/** The plain copies: the faster one is the measure of the others. */
const copies = (backend: CudaBackend): Record<string, Work> => {
  const copy = (enqueue: (to: number, from: number, bytes: number) => void): Work => ({
    passes: 2,
    run: ({ x: { tensor } }) => {
      const out = backend.output(tensor.shape, 'float32');
      enqueue(out.pointer, backend.pointer(tensor), tensor.size * 4);
      return tf.engine().makeTensorFromTensorInfo(out);
    },
    expected: ({ x }, row) => x.row(row),
  });
  return {
    cuMemcpyDtoDAsync: copy((to, from, bytes) => backend.copy(to, from, bytes)),
    'copy kernel': copy((to, from, bytes) => {
      const units = bytes / 16;
      const none = [0, 0, 0, 0, 0];
      // One axis of `units`, whose quotient is 0 for all that is below it: factor 0, shift 31.
      const axes = [1, units, 0, 31, ...none, ...none, ...none, 1, ...none, 1, ...none];
      backend.launch(copyKernel, backend.blocks(units / 2), 256, [from, to, units, axes]);
    }),
  };
};

/** tfjs ops, by the names of their rows. */
const works: Record<string, Work> = {
  'copy (tf.concat of two halves)': {
    passes: 2,
    run: ({ left, right }) => tf.concat([left.tensor, right.tensor], 1),
    expected: ({ left, right }, row) => Float64Array.of(...left.row(row), ...right.row(row)),
  },
  'tf.add': {
    passes: 3,
    run: ({ x, y }) => tf.add(x.tensor, y.tensor),
    expected: ({ x, y }, row) => {
      const other = y.row(row);
      return x.row(row).map((value, i) => value + (other[i] as number));
    },
  },
  GELU: {
    passes: 2,
    run: ({ x }) => activate(x.tensor, 'gelu'),
    expected: ({ x }, row) => x.row(row).map((value) => referenceActivate(value, 'gelu')),
  },
  'layer norm': {
    passes: 2,
    run: ({ x, scale, shift }) =>
      layerNorm(x.tensor, tf.squeeze(scale.tensor), tf.squeeze(shift.tensor), EPSILON),
    expected: ({ x, scale, shift }, row) =>
      normalized(x.row(row), scale.row(0), shift.row(0), EPSILON),
  },
};

/**
 * The share of the measured copy bandwidth that tfjs ops reach, and that bandwidth itself: of cuMemcpyDtoDAsync or of a
 * plain copy kernel, whichever is faster.
 *
 * @param rows Of 1,024 floats, of each input.
 */
export async function bandwidthRows(
  backend: CudaBackend,
  random: Random,
  wanted: (name: string) => boolean,
  rows = ROWS,
): Promise<Row[]> {
  const bytes = rows * COLUMNS * 4;
  const title = `bandwidth on ${bytes / 2 ** 20} MiB`;
  const copyName = `${title}: the measured copy, GB/s`;
  const plans = Object.keys(works)
    .map((label) => ({ label, name: `${title}: ${label} / the measured copy`, bar: BAR }))
    .filter(({ name }) => wanted(name));
  if (plans.length === 0 && !wanted(copyName)) return [];

  const sets = Array.from({ length: SETS }, () => drawInputs(rows, random));
  const copying = copies(backend);
  const all = {
    ...copying,
    ...Object.fromEntries(plans.map(({ label }) => [label, works[label]])),
  };
  const failures = new Map<string, unknown>();
  const runs: Record<string, (run: number) => void> = {};
  const kept = new Map<string, tf.Tensor>();
  for (const [label, work] of Object.entries(all) as [string, Work][]) {
    try {
      for (const inputs of sets) checkRows(label, work, inputs, random);
      runs[label] = (run) => {
        const out = tf.tidy(() => work.run(sets[run % SETS] as Inputs));
        // Kept for one more run, so that two outputs alternate as the inputs do.
        kept.get(label)?.dispose();
        kept.set(label, out);
      };
    } catch (error) {
      failures.set(label, error);
    }
  }
  const times = await timeInTurns(backend, runs);
  tf.dispose([...kept.values(), sets as unknown as tf.TensorContainer]);

  const rate = (label: string, { median }: Times) =>
    ((all[label]?.passes ?? 0) * bytes) / median / 1e6;
  const rates = Object.fromEntries(
    Object.entries(times).map(([label, time]) => [label, rate(label, time)]),
  );
  const pick = <T>(values: Record<string, T>, labels: string[]) =>
    Object.fromEntries(labels.filter((label) => label in values).map((l) => [l, values[l] as T]));
  const copied = pick(rates, Object.keys(copying));
  const [fastest, copyRate] =
    Object.entries(copied).sort(([, a], [, b]) => b - a)[0] ?? ([undefined, 0] as const);
  if (fastest === undefined) {
    const error = [...failures.values()][0];
    return [{ name: copyName }, ...plans].map((plan) => failedRow(plan, error));
  }
  const figures = (labels: string[]) => ({
    times: pick(times, labels),
    gigabytesPerSecond: pick(rates, labels),
  });
  return [
    { name: copyName, value: copyRate, holds: true, ...figures(Object.keys(copying)) },
    ...plans.map(({ label, name, bar }): Row => {
      if (failures.has(label)) return failedRow({ name, bar }, failures.get(label));
      const value = (rates[label] as number) / copyRate;
      return { name, bar, value, holds: holds(bar, value), ...figures([label, fastest]) };
    }),
  ];
}

function drawInputs(rows: number, random: Random): Inputs {
  const draw = (rows: number, columns: number) => drawKnown(rows, columns, random);
  return {
    x: draw(rows, COLUMNS),
    y: draw(rows, COLUMNS),
    left: draw(rows, COLUMNS / 2),
    right: draw(rows, COLUMNS / 2),
    scale: draw(1, COLUMNS),
    shift: draw(1, COLUMNS),
  };
}

/** Values in [-3, 3), where GELU's bend is. */
function drawKnown(rows: number, columns: number, random: Random): Known {
  const size = rows * columns;
  const period = new Float32Array(Math.min(PERIOD, size)).map(() => 6 * random.uniform() - 3);
  const values = new Float32Array(size);
  for (let done = 0; done < size; done += PERIOD) {
    values.set(period.subarray(0, size - done), done);
  }
  return {
    tensor: tf.tensor2d(values, [rows, columns]),
    row: (index) =>
      Float64Array.from(
        { length: columns },
        (_, i) => period[(index * columns + i) % PERIOD] as number,
      ),
  };
}

/** Compares some rows of a work's result with float64, the first and the last among them. */
function checkRows(label: string, work: Work, inputs: Inputs, random: Random): void {
  const rows = inputs.x.tensor.shape[0];
  const sampled = [0, rows - 1];
  while (sampled.length < SAMPLED_ROWS) sampled.push(Math.floor(random.uniform() * rows));
  const part = tf.tidy(() => tf.gather(work.run(inputs), tf.tensor1d(sampled, 'int32')));
  const actual = part.dataSync<'float32'>();
  part.dispose();
  const expected = sampled.flatMap((row) => Array.from(work.expected(inputs, row)));
  expectRight(label, actual, { values: Float64Array.from(expected), columns: COLUMNS });
}
