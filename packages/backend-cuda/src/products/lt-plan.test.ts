import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  ALGORITHM_BYTES,
  type CublasLt,
  type CublasLtFunctions,
  HEURISTIC_BYTES,
  HEURISTIC_STATE_OFFSET,
} from './cublas-lt.js';
import { alignmentOf, LtPlan, planKey, SLOT_BYTES } from './lt-plan.js';
import { complete, type Product } from './product.js';

const full = (product: Partial<Product>) =>
  complete('float32', { a: 256, b: 512, out: 1024, m: 3, n: 4, k: 5, ...product });

/** A library that writes down its calls and gives out handles 1, 2, 3, … */
function recordingLt(states: readonly number[]) {
  const calls: { name: string; args: unknown[] }[] = [];
  let next = 1;
  const make = (out: unknown) => {
    (out as BigUint64Array)[0] = BigInt(next++);
  };
  const lt = new Proxy({ file: 'recorded' } as CublasLt, {
    get:
      (_, name) =>
      (...args: unknown[]) => {
        // Typed arrays are reused by the caller: what counts is what they held.
        const held = args.map((arg) => (ArrayBuffer.isView(arg) ? [...(arg as Uint8Array)] : arg));
        calls.push({ name: String(name), args: held });
        if (String(name).endsWith('Create')) make(args[0]);
        if (name === 'cublasLtMatmulAlgoGetHeuristic') {
          const results = args[8] as Uint8Array;
          states.forEach((state, i) => {
            results.fill(i + 1, i * HEURISTIC_BYTES, i * HEURISTIC_BYTES + ALGORITHM_BYTES);
            new DataView(results.buffer).setInt32(
              i * HEURISTIC_BYTES + HEURISTIC_STATE_OFFSET,
              state,
              true,
            );
          });
          (args[9] as Int32Array)[0] = states.length;
        }
        return 0;
      },
  });
  const of = (name: keyof CublasLtFunctions) =>
    calls.filter((call) => call.name === name).map((call) => call.args);
  return { lt, of };
}

const slot = () => ({ address: 0x7000, buffer: new ArrayBuffer(SLOT_BYTES) });

test('a row-major product is asked for as its transpose, b first', () => {
  const { lt, of } = recordingLt([0]);
  const product = full({ m: 3, n: 4, k: 5, transposeA: true, batch: 7, strideB: 0 });
  const plan = new LtPlan(lt, 99, slot(), product, 4096, 1);
  // desc 1; b is [k, n] = column-major n x k; a is [k, m] = column-major m x k; out column-major n x m.
  expect(of('cublasLtMatrixLayoutCreate').map((args) => args.slice(1))).toEqual([
    [0, 4, 5, 4],
    [0, 3, 5, 3],
    [0, 4, 3, 4],
  ]);
  expect(of('cublasLtMatmulDescSetAttribute').map((args) => args.slice(1, 3))).toEqual([
    [3, [0]],
    [4, [1]],
  ]);
  expect(of('cublasLtMatrixLayoutSetAttribute').map((args) => args.slice(0, 3))).toEqual([
    [2, 5, [7]],
    [2, 6, [0n]],
    [3, 5, [7]],
    [3, 6, [15n]],
    [4, 5, [7]],
    [4, 6, [12n]],
  ]);
  expect(plan.run(99, product, 0x100, 4096, 0x55)).toBe(0);
  expect(of('cublasLtMatmul')).toEqual([
    [99, 1, 0x7000, 512, 2, 256, 3, 0x7004, 1024, 4, 1024, 4, 0x7010, 0x100, 4096, 0x55],
  ]);
});

test('the slot holds 1, 0 and the chosen algorithm; unusable ones are left out', () => {
  const { lt } = recordingLt([0, 15, 0]);
  const memory = slot();
  const plan = new LtPlan(lt, 99, memory, full({}), 4096, 3);
  expect(plan.choices).toBe(2);
  expect([...new Float32Array(memory.buffer, 0, 2)]).toEqual([1, 0]);
  expect(new Uint8Array(memory.buffer)[16]).toBe(1);
  plan.choose(1);
  expect(new Uint8Array(memory.buffer)[16]).toBe(3);
});

test('a bias is set again only when it has moved', () => {
  const { lt, of } = recordingLt([0]);
  const plan = new LtPlan(lt, 99, slot(), full({ bias: 0x900 }), 4096, 1);
  const pointers = () =>
    of('cublasLtMatmulDescSetAttribute').flatMap(([, attribute, value]) =>
      attribute === 8 ? [value] : [],
    );
  plan.run(99, full({ bias: 0x900 }), 0, 0, 0);
  expect(pointers()).toEqual([[0x900n]]);
  plan.run(99, full({ bias: 0xa00 }), 0, 0, 0);
  expect(pointers()).toEqual([[0x900n], [0xa00n]]);
});

test('the library adds the bias and applies relu itself, other activations not', () => {
  const epilogue = (product: Partial<Product>) => {
    const { lt, of } = recordingLt([0]);
    void new LtPlan(lt, 99, slot(), full(product), 4096, 1);
    return of('cublasLtMatmulDescSetAttribute').flatMap(([, attribute, value]) =>
      attribute === 7 ? (value as number[]) : [],
    );
  };
  expect(epilogue({})).toEqual([]);
  expect(epilogue({ activation: 'elu' })).toEqual([]);
  expect(epilogue({ activation: 'relu' })).toEqual([2]);
  expect(epilogue({ bias: 256 })).toEqual([4]);
  expect(epilogue({ bias: 256, activation: 'relu' })).toEqual([6]);
  expect(planKey(full({ activation: 'relu' }))).not.toBe(planKey(full({})));
  expect(planKey(full({ activation: 'elu' }))).toBe(planKey(full({})));
});

test('alignment is that of every address, and of the steps of a batch', () => {
  expect(alignmentOf(full({}))).toBe(256);
  expect(alignmentOf(full({ a: 256 + 16 }))).toBe(16);
  expect(alignmentOf(full({ bias: 4 }))).toBe(4);
  expect(alignmentOf(full({ batch: 2, strideA: 64, strideB: 64, strideOut: 8 }))).toBe(32);
});

test('products share a plan exactly if they differ in addresses alone', () => {
  const product = fc.record({
    m: fc.integer({ min: 1, max: 3 }),
    n: fc.integer({ min: 1, max: 3 }),
    k: fc.integer({ min: 1, max: 3 }),
    batch: fc.integer({ min: 1, max: 2 }),
    transposeA: fc.boolean(),
    transposeB: fc.boolean(),
    operands: fc.constantFrom('float32' as const, 'bf16' as const, 'fp16' as const),
    tf32: fc.boolean(),
  });
  const address = fc.integer({ min: 1, max: 9 }).map((i) => i * 256);
  fc.assert(
    fc.property(product, product, address, address, (x, y, a, b) => {
      const same =
        JSON.stringify({ ...x, tf32: x.tf32 && x.operands === 'float32' }) ===
        JSON.stringify({ ...y, tf32: y.tf32 && y.operands === 'float32' });
      const steps = { strideA: 128, strideB: 128, strideOut: 128 };
      const one = planKey(full({ ...x, ...steps, a, b }));
      const other = planKey(full({ ...y, ...steps, a: b, b: a }));
      expect(one === other).toBe(same);
    }),
  );
  expect(planKey(full({ bias: 256 }))).not.toBe(planKey(full({})));
  expect(planKey(full({ operands: 'bf16' }))).not.toBe(
    planKey(full({ operands: 'bf16', result: 'float32' })),
  );
});
