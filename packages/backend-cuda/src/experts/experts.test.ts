import { Random } from '@d2dmoe/core';
import {
  dynamicKExperts,
  packExperts,
  referenceDynamicKExperts,
  referenceSelectExperts,
  selectExperts,
  type ExpertStorage,
  type SelectionRule,
} from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { afterEach, expect, test } from 'vitest';
import { relativeError } from '../../../kernels/testing/closeness.js';
import {
  booleans,
  errorOf,
  ffnKinds,
  type LayerShape,
  matrix,
  normals,
  randomLayer,
  shares,
  weightsOf,
  withExperts,
} from '../../../kernels/testing/random-experts.js';
import { emulated } from '../../testing/emulated.js';
import { exactNorms } from '../../testing/experts.js';
import { nearest } from '../../testing/halves.js';
import { groupRows, selectionBits } from './select.js';

const shapes: fc.Arbitrary<LayerShape> = fc.record({
  rows: fc.constantFrom(1, 2, 3, 9, 17),
  dIn: fc.integer({ min: 1, max: 150 }),
  dOut: fc.integer({ min: 1, max: 150 }),
  experts: fc.integer({ min: 1, max: 40 }),
  expertSize: fc.constantFrom(1, 4, 7, 16, 32),
  density: shares,
  ...ffnKinds,
});

/** What the op gives, what float64 does, and how far the one is from the other. */
function results(
  shape: LayerShape,
  storage: ExpertStorage,
): [ArrayLike<number>, Float64Array, number] {
  const { rows, dIn, experts } = shape;
  const layer = randomLayer(shape);
  const { x, ffn, selection } = layer;
  const actual = withExperts(
    ffn,
    (packed) =>
      dynamicKExperts(matrix(x, rows, dIn), booleans(selection, rows, experts), packed).dataSync(),
    storage,
  );
  const expected = referenceDynamicKExperts(x, selection, ffn);
  return [actual, expected, errorOf(layer, actual, expected)];
}

const fixed: LayerShape = {
  rows: 3,
  dIn: 96,
  dOut: 80,
  experts: 12,
  expertSize: 16,
  activation: 'gelu',
  gated: true,
  biases: true,
  density: 0.4,
  seed: 5,
};

emulated('the expert op', (cuda) => {
  afterEach(() => {
    cuda().precision = 'float32';
  });

  // In 16 bits a single product of a gated layer is rounded five times: x, up, gate, down and the hidden activation.
  test.each([
    ['float32', 'float32', 1e-5],
    ['float32', 'tf32', 1e-3],
    ['float16', 'float32', 5 * 2 ** -12],
    ['bfloat16', 'float32', 5 * 2 ** -9],
    ['int8', 'float32', 3e-2],
  ] as const)('in %s, products in %s, gives what float64 does', (storage, precision, bar) => {
    cuda().precision = precision;
    fc.assert(
      fc.property(shapes, (shape) => {
        const before = tf.memory().numTensors;
        const [, , error] = results(shape, storage);
        expect(tf.memory().numTensors).toBe(before);
        expect(error).toBeLessThanOrEqual(bar);
      }),
      { numRuns: 12 },
    );
  });

  test.each([
    ['bf16', 'bfloat16', 1e-2],
    ['fp16', 'float16', 2e-3],
  ] as const)('in %s end to end', (precision, storage, bar) => {
    cuda().precision = precision;
    for (const rows of [1, 5, 20, 70, 600]) {
      const [actual, expected] = results({ ...fixed, rows }, storage);
      expect(relativeError(actual, expected)).toBeLessThanOrEqual(bar);
    }
  });

  test.each(['float32', 'float16', 'bfloat16', 'int8'] as const)(
    'of many rows in %s',
    (storage) => {
      const bars = { float32: 1e-5, float16: 1e-3, bfloat16: 8e-3, int8: 3e-2 };
      for (const dIn of [96, 33]) {
        const [actual, expected] = results({ ...fixed, dIn, rows: 70 }, storage);
        expect(relativeError(actual, expected)).toBeLessThanOrEqual(bars[storage]);
      }
    },
  );

  test('of no rows is empty; of rows that select nothing, the bias', () => {
    expect(results({ ...fixed, rows: 0 }, 'float32')[0]).toHaveLength(0);
    const [actual, expected] = results({ ...fixed, density: 0 }, 'float16');
    expect(relativeError(actual, expected)).toBeLessThan(1e-6);
  });

  test('refuses a storage that it lacks', () => {
    expect(() => results(fixed, 'float64' as ExpertStorage)).toThrow(
      expect.objectContaining({ code: 'STORAGE_UNSUPPORTED' }),
    );
  });

  test('replays in a graph with new rows and a new selection', () => {
    const { rows, dIn, experts, expertSize } = fixed;
    const backend = cuda();
    const { ffn } = randomLayer({ ...fixed, biases: false });
    const weights = weightsOf(ffn);
    const packed = packExperts(weights, expertSize, { storage: 'float16' });
    const input = tf.zeros<tf.Rank.R2>([rows, dIn]);
    const norms = tf.zeros<tf.Rank.R2>([rows, experts]);
    const rule: SelectionRule = { rule: 'threshold', value: 0.5 };
    let out: tf.Tensor | undefined;
    const graph = backend.capture(() => {
      out = tf.tidy(() => dynamicKExperts(input, selectExperts(norms, rule), packed));
    });
    const random = new Random(9);
    for (let turn = 0; turn < 3; turn++) {
      const x = normals(rows * dIn, random);
      const forecast = normals(rows * experts, random).map(Math.abs);
      const fresh = [matrix(x, rows, dIn), matrix(forecast, rows, experts)] as const;
      backend.copy(backend.pointer(input), backend.pointer(fresh[0]), rows * dIn * 4);
      backend.copy(backend.pointer(norms), backend.pointer(fresh[1]), rows * experts * 4);
      graph.launch();
      const selection = referenceSelectExperts(forecast, experts, rule);
      const expected = referenceDynamicKExperts(x, selection, ffn);
      expect(relativeError(out?.dataSync() ?? [], expected)).toBeLessThanOrEqual(1e-3);
      tf.dispose([...fresh]);
    }
    graph.dispose();
    packed.dispose();
    tf.dispose([input, norms, out ?? [], weights.up, weights.gate ?? [], weights.down]);
  });
});

emulated('selection', (cuda) => {
  const rules: fc.Arbitrary<SelectionRule> = fc.oneof(
    fc.record({ rule: fc.constant('threshold'), value: fc.constantFrom(0, 0.25, 0.5, 0.75, 1) }),
    fc.record({ rule: fc.constant('topK'), value: fc.integer({ min: 1, max: 80 }) }),
    fc.record({
      rule: fc.constant('cumulativeShare'),
      value: fc.constantFrom(0, 0.25, 0.5, 0.75, 1),
    }),
  ) as fc.Arbitrary<SelectionRule>;
  // Few distinct values, exact in float32: ties are common, sums are exact.
  const norms = fc
    .record({ rows: fc.integer({ min: 1, max: 9 }), experts: fc.integer({ min: 1, max: 70 }) })
    .chain(({ rows, experts }) =>
      fc.record({
        rows: fc.constant(rows),
        experts: fc.constant(experts),
        values: fc.array(fc.constantFrom(0, 0, 0.25, 0.5, 1, 1.75, 3, 8), {
          minLength: rows * experts,
          maxLength: rows * experts,
        }),
      }),
    );

  test('is that of float64, ties included', () => {
    fc.assert(
      fc.property(norms, rules, ({ rows, experts, values }, rule) => {
        const actual = tf.tidy(() =>
          selectExperts(tf.tensor2d(values, [rows, experts]), rule).dataSync(),
        );
        const expected = referenceSelectExperts(Float64Array.from(values), experts, rule);
        expect(Array.from(actual)).toEqual(Array.from(expected));
      }),
      { numRuns: 60 },
    );
  });

  test('of no rows is empty', () => {
    tf.tidy(() => {
      const selection = selectExperts(tf.zeros([0, 4]), { rule: 'topK', value: 1 });
      expect(selection.shape).toEqual([0, 4]);
    });
  });

  test('groups rows by expert, in order', () => {
    for (const [rows, experts] of [
      [1, 1],
      [37, 24],
      [600, 40],
      [300, 130],
    ] as const) {
      const backend = cuda();
      const random = new Random(rows);
      const values = Uint8Array.from({ length: rows * experts }, () => random.integer(2));
      const selection = tf.tensor2d(values, [rows, experts], 'bool');
      const bits = selectionBits(backend, selection);
      const groups = groupRows(backend, bits.pointer, rows, experts);
      const read = (pointer: number, count: number) => {
        const out = backend.output([count], 'int32');
        backend.copy(out.pointer, pointer, count * 4);
        const host = Array.from(backend.readSync(out.dataId) as Int32Array);
        backend.disposeIntermediateTensorInfo(out);
        return host;
      };
      const lists = Array.from({ length: experts }, (_, e) =>
        Array.from({ length: rows }, (_, r) => r).filter((r) => values[r * experts + e] === 1),
      );
      expect(read(groups.counts, experts)).toEqual(lists.map((list) => list.length));
      const offsets = lists.map((_, e) => lists.slice(0, e).flat().length);
      expect(read(groups.offsets, experts + 1)).toEqual([...offsets, lists.flat().length]);
      expect(read(groups.rows, lists.flat().length)).toEqual(lists.flat());
      groups.free();
      bits.free();
      selection.dispose();
    }
  });
});

emulated('router and experts in one', (cuda) => {
  afterEach(() => {
    cuda().precision = 'float32';
  });

  /** What RoutedExperts gives. */
  function routed(
    { x, ffn }: Pick<ReturnType<typeof randomLayer>, 'x' | 'ffn'>,
    router: { hidden: Float64Array; output: Float64Array },
    shape: LayerShape,
    storage: ExpertStorage,
    rule: SelectionRule,
  ): ArrayLike<number> {
    const { rows, dIn, dOut, experts, expertSize, activation } = shape;
    const width = router.hidden.length / dIn;
    return withExperts(
      ffn,
      (packed) => {
        const matrices = {
          hidden: matrix(router.hidden, width, dIn),
          output: matrix(router.output, experts, width),
        };
        const routers = tf.engine().runKernel<tf.Tensor[]>('PackRouter', matrices, { storage });
        const named = Object.fromEntries(routers.map((tensor, i) => [`router${i}`, tensor]));
        const inputs = { x: matrix(x, rows, dIn), ...named, ...packed.tensors };
        const attrs = { activation, expertSize, dOut, storage, ...rule };
        return tf.engine().runKernel<tf.Tensor>('RoutedExperts', inputs, attrs).dataSync();
      },
      storage,
    );
  }

  test.each([
    ['float32', 1, 12, 'topK', 5],
    ['float32', 9, 12, 'threshold', 0.5],
    ['float32', 70, 12, 'topK', 3],
    ['float32', 4, 12, 'cumulativeShare', 0.7],
    ['float16', 1, 37, 'topK', 8],
    ['float16', 1, 150, 'topK', 40],
    ['float16', 2, 33, 'topK', 3],
    ['float16', 1, 37, 'threshold', 0.5],
    ['float16', 5, 12, 'topK', 12],
    ['int8', 1, 150, 'cumulativeShare', 0.6],
    ['int8', 3, 12, 'topK', 4],
  ] as const)(
    'in %s with %d rows of %d experts by %s %d',
    (storage, rows, experts, rule, value) => {
      const shape = { ...fixed, experts, rows };
      const layer = randomLayer(shape);
      const width = 24;
      const random = new Random(rows);
      // Weights that 16 bits hold exactly: norms differ from float64's by less than they do from each other.
      const coarse = (count: number) =>
        Float64Array.from({ length: count }, () => Math.round(random.normal() * 16) / 16);
      const router = { hidden: coarse(width * shape.dIn), output: coarse(experts * width) };
      const norms = exactNorms(layer.x, router, shape);
      const selection = referenceSelectExperts(norms, experts, { rule, value });
      const actual = routed(layer, router, shape, storage, { rule, value });
      const expected = referenceDynamicKExperts(layer.x, selection, layer.ffn);
      const bars = { float32: 1e-5, float16: 2e-3, int8: 3e-2 };
      expect(relativeError(actual, expected)).toBeLessThanOrEqual(bars[storage]);
    },
  );

  test.each([1, 3])('of equal norms those of lower number run: %d rows', (rows) => {
    const shape = { ...fixed, experts: 150, rows };
    const layer = randomLayer(shape);
    const width = 8;
    const random = new Random(rows);
    const coarse = (count: number) =>
      Float64Array.from({ length: count }, () => Math.round(random.normal() * 16) / 16);
    // Every fifth expert's norm is the same, and of a row of zeros all are: places end among equal ones.
    const five = coarse(5 * width);
    const output = Float64Array.from(
      { length: shape.experts * width },
      (_, i) => five[i % (5 * width)] as number,
    );
    const router = { hidden: coarse(width * shape.dIn), output };
    const rule = { rule: 'topK', value: 77 } as const;
    for (const x of [layer.x, layer.x.map(() => 0)]) {
      const norms = exactNorms(x, router, shape);
      const selection = referenceSelectExperts(norms, shape.experts, rule);
      const expected = referenceDynamicKExperts(x, selection, layer.ffn);
      const actual = routed({ ...layer, x }, router, shape, 'float16', rule);
      expect(relativeError(actual, expected)).toBeLessThanOrEqual(2e-3);
    }
  });

  test.each([
    ['bf16', 'bfloat16', 90, 8e-3],
    ['bf16', 'bfloat16', 600, 8e-3],
    ['fp16', 'float16', 90, 2e-3],
  ] as const)(
    'under %s norms are not rounded before the choice: %s, %d rows',
    (precision, storage, rows, bar) => {
      cuda().precision = precision;
      const shape = { ...fixed, rows, gated: false, experts: 24, dIn: 64 };
      const random = new Random(rows);
      const integers = (count: number, most: number) =>
        Float64Array.from({ length: count }, () => random.integer(2 * most + 1) - most);
      // Exact up to the norms, of which 16 bits hold too little to tell an expert's from the next one's.
      const layer = { ...randomLayer(shape), x: integers(rows * shape.dIn, 2) };
      const output = integers(24 * shape.experts, 3).map((x) => 64 + x);
      const router = { hidden: integers(24 * shape.dIn, 1), output };
      const norms = exactNorms(layer.x, router, shape);
      const rule = { rule: 'topK', value: 9 } as const;
      const selection = referenceSelectExperts(norms, shape.experts, rule);
      const rounded = referenceSelectExperts(norms.map(nearest[precision]), shape.experts, rule);
      expect(rounded).not.toEqual(selection);
      const expected = referenceDynamicKExperts(layer.x, selection, layer.ffn);
      expect(relativeError(routed(layer, router, shape, storage, rule), expected)).toBeLessThan(
        bar,
      );
    },
  );
});
