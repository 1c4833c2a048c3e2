import type { HostMemory } from '../driver/driver.js';
import { halfTypeOf } from '../tensor-data.js';
import {
  ALGORITHM_BYTES,
  COMPUTE_32F,
  COMPUTE_32F_FAST_TF32,
  type CublasLt,
  checkLt,
  DESC_BIAS_POINTER,
  DESC_EPILOGUE,
  DESC_TRANSA,
  DESC_TRANSB,
  EPILOGUE_BIAS,
  EPILOGUE_RELU,
  HEURISTIC_BYTES,
  HEURISTIC_STATE_OFFSET,
  LAYOUT_BATCH_COUNT,
  LAYOUT_STRIDED_BATCH_OFFSET,
  PREFERENCE_MAX_WORKSPACE_BYTES,
  PREFERENCE_MIN_ALIGNMENT_A_BYTES,
  PREFERENCE_REDUCTION_SCHEME_MASK,
  REDUCTION_SCHEME_COMPUTE_TYPE,
  TYPE_16BF,
  TYPE_16F,
  TYPE_32F,
} from './cublas-lt.js';
import { BYTES, type FullProduct, type ProductType } from './product.js';

/** Bytes that {@link LtPlan} needs of a host memory slot: 1.0, 0.0 and the algorithm. */
export const SLOT_BYTES = 16 + ALGORITHM_BYTES;

/** The greatest power of two up to 256 that divides all addresses of a product and the steps between its matrices. */
export function alignmentOf(product: FullProduct): number {
  const { a, b, out, bias = 0, batch, operands, result } = product;
  const steps =
    batch === 1
      ? [0]
      : [
          product.strideA * BYTES[operands],
          product.strideB * BYTES[operands],
          product.strideOut * BYTES[result],
        ];
  let alignment = 256;
  for (const value of [a, b, out, bias, ...steps]) {
    while (value % alignment !== 0) alignment /= 2;
  }
  return alignment;
}

/** Whether cuBLASLt applies a product's activation itself. */
export const fusesActivation = ({ activation }: FullProduct): boolean => activation === 'relu';

/** The library's number of a type. */
const typeNumber = (type: ProductType) =>
  ({ float32: TYPE_32F, bf16: TYPE_16BF, fp16: TYPE_16F })[halfTypeOf(type) ?? 'float32'];

/** What two products have in common that can share a plan. */
export function planKey(product: FullProduct): string {
  const { batch, m, n, k, transposeA, transposeB, operands, result, tf32, bias } = product;
  const flags =
    (transposeA ? 1 : 0) |
    (transposeB ? 2 : 0) |
    (tf32 ? 4 : 0) |
    (bias === undefined ? 0 : 8) |
    (fusesActivation(product) ? 16 : 0);
  const strides =
    batch === 1 ? '' : `,${batch},${product.strideA},${product.strideB},${product.strideOut}`;
  return `${m},${n},${k},${operands},${result},${flags},${alignmentOf(product)}${strides}`;
}

/**
 * How cuBLASLt does products of one shape: its descriptors and the algorithm chosen. It is column-major, and a row-major
 * matrix is its transpose there, so out = op(a) · op(b) is asked for as outᵀ = op(b)ᵀ · op(a)ᵀ: b comes first.
 */
export class LtPlan {
  readonly #lt: CublasLt;
  readonly #desc: number;
  readonly #left: number;
  readonly #right: number;
  readonly #out: number;
  readonly #slot: HostMemory;
  readonly #bias = new BigUint64Array(1);
  readonly #algorithms: Uint8Array[] = [];

  /**
   * @param slot {@link SLOT_BYTES} of host memory that are the plan's until dispose().
   * @param want How many algorithms to ask the library for, best guess first.
   */
  constructor(
    lt: CublasLt,
    handle: number,
    slot: HostMemory,
    product: FullProduct,
    workspaceBytes: number,
    want: number,
  ) {
    this.#lt = lt;
    this.#slot = slot;
    const floats = new Float32Array(slot.buffer, 0, 2);
    floats[0] = 1;
    floats[1] = 0;

    const { m, n, k, batch, transposeA, transposeB, operands, result, tf32 } = product;
    const type = typeNumber(operands);
    const out = new BigUint64Array(1);
    const compute = tf32 ? COMPUTE_32F_FAST_TF32 : COMPUTE_32F;
    checkLt(lt.cublasLtMatmulDescCreate(out, compute, TYPE_32F), 'cublasLtMatmulDescCreate');
    this.#desc = Number(out[0]);
    this.#set(DESC_TRANSA, new Int32Array([transposeB ? 1 : 0]));
    this.#set(DESC_TRANSB, new Int32Array([transposeA ? 1 : 0]));
    const epilogue =
      (product.bias === undefined ? 0 : EPILOGUE_BIAS) |
      (fusesActivation(product) ? EPILOGUE_RELU : 0);
    if (epilogue !== 0) this.#set(DESC_EPILOGUE, new Uint32Array([epilogue]));
    if (product.bias !== undefined) {
      this.#bias[0] = BigInt(product.bias);
      this.#set(DESC_BIAS_POINTER, this.#bias);
    }

    const layout = (type: number, lines: number, length: number, stride: number) => {
      checkLt(
        lt.cublasLtMatrixLayoutCreate(out, type, length, lines, length),
        'cublasLtMatrixLayoutCreate',
      );
      const layout = Number(out[0]);
      const set = (attribute: number, value: ArrayBufferView) => {
        checkLt(
          lt.cublasLtMatrixLayoutSetAttribute(layout, attribute, value, value.byteLength),
          'cublasLtMatrixLayoutSetAttribute',
        );
      };
      if (batch > 1) {
        set(LAYOUT_BATCH_COUNT, new Int32Array([batch]));
        set(LAYOUT_STRIDED_BATCH_OFFSET, new BigInt64Array([BigInt(stride)]));
      }
      return layout;
    };
    this.#left = layout(type, transposeB ? n : k, transposeB ? k : n, product.strideB);
    this.#right = layout(type, transposeA ? k : m, transposeA ? m : k, product.strideA);
    this.#out = layout(typeNumber(result), m, n, product.strideOut);
    this.#ask(handle, alignmentOf(product), workspaceBytes, want);
  }

  /** Number of algorithms to choose from; 0 where the library does not do this product. */
  get choices(): number {
    return this.#algorithms.length;
  }

  /** Makes one of the algorithms the plan's; the first is to begin with. */
  choose(index: number): void {
    const algorithm = this.#algorithms[index];
    if (algorithm !== undefined) new Uint8Array(this.#slot.buffer).set(algorithm, 16);
  }

  /** Enqueues the product; returns cuBLASLt's status. */
  run(
    handle: number,
    product: FullProduct,
    workspace: number,
    workspaceBytes: number,
    stream: number,
  ): number {
    const { a, b, out, bias } = product;
    if (bias !== undefined && this.#bias[0] !== BigInt(bias)) {
      this.#bias[0] = BigInt(bias);
      this.#set(DESC_BIAS_POINTER, this.#bias);
    }
    const { address } = this.#slot;
    return this.#lt.cublasLtMatmul(
      handle,
      this.#desc,
      address,
      b,
      this.#left,
      a,
      this.#right,
      address + 4,
      out,
      this.#out,
      out,
      this.#out,
      address + 16,
      workspace,
      workspaceBytes,
      stream,
    );
  }

  /** Destroys the descriptors; returns the slot. */
  dispose(): HostMemory {
    for (const layout of [this.#left, this.#right, this.#out]) {
      this.#lt.cublasLtMatrixLayoutDestroy(layout);
    }
    this.#lt.cublasLtMatmulDescDestroy(this.#desc);
    return this.#slot;
  }

  #set(attribute: number, value: ArrayBufferView): void {
    checkLt(
      this.#lt.cublasLtMatmulDescSetAttribute(this.#desc, attribute, value, value.byteLength),
      'cublasLtMatmulDescSetAttribute',
    );
  }

  #ask(handle: number, alignment: number, workspaceBytes: number, want: number): void {
    const lt = this.#lt;
    const out = new BigUint64Array(1);
    checkLt(lt.cublasLtMatmulPreferenceCreate(out), 'cublasLtMatmulPreferenceCreate');
    const preference = Number(out[0]);
    const set = (attribute: number, value: ArrayBufferView) => {
      checkLt(
        lt.cublasLtMatmulPreferenceSetAttribute(preference, attribute, value, value.byteLength),
        'cublasLtMatmulPreferenceSetAttribute',
      );
    };
    set(PREFERENCE_MAX_WORKSPACE_BYTES, new BigUint64Array([BigInt(workspaceBytes)]));
    set(PREFERENCE_REDUCTION_SCHEME_MASK, new Uint32Array([REDUCTION_SCHEME_COMPUTE_TYPE]));
    for (let operand = 0; operand < 4; operand++) {
      set(PREFERENCE_MIN_ALIGNMENT_A_BYTES + operand, new Uint32Array([alignment]));
    }
    const results = new Uint8Array(want * HEURISTIC_BYTES);
    const count = new Int32Array(1);
    // A status other than success means no algorithm: the product is done without the library then.
    const status = lt.cublasLtMatmulAlgoGetHeuristic(
      handle,
      this.#desc,
      this.#left,
      this.#right,
      this.#out,
      this.#out,
      preference,
      want,
      results,
      count,
    );
    lt.cublasLtMatmulPreferenceDestroy(preference);
    if (status !== 0) return;
    const states = new DataView(results.buffer);
    for (let i = 0; i < (count[0] ?? 0); i++) {
      const at = i * HEURISTIC_BYTES;
      if (states.getInt32(at + HEURISTIC_STATE_OFFSET, true) !== 0) continue;
      this.#algorithms.push(results.slice(at, at + ALGORITHM_BYTES));
    }
    this.choose(0);
  }
}
