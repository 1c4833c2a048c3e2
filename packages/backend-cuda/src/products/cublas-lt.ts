import { D2DMoEError } from '@d2dmoe/core';
import koffi, { type LibraryHandle } from 'koffi';
import { cublasLtCandidates } from './find-cublas-lt.js';

/** The functions of cuBLASLt that products need, as cublasLt.h of CUDA 12 and 13 declares them; results are cublasStatus_t. */
export interface CublasLtFunctions {
  cublasLtCreate(handle: BigUint64Array): number;
  cublasLtMatmulDescCreate(desc: BigUint64Array, computeType: number, scaleType: number): number;
  cublasLtMatmulDescDestroy(desc: number): number;
  cublasLtMatmulDescSetAttribute(
    desc: number,
    attribute: number,
    value: ArrayBufferView,
    bytes: number,
  ): number;
  cublasLtMatrixLayoutCreate(
    layout: BigUint64Array,
    type: number,
    rows: number,
    columns: number,
    ld: number,
  ): number;
  cublasLtMatrixLayoutDestroy(layout: number): number;
  cublasLtMatrixLayoutSetAttribute(
    layout: number,
    attribute: number,
    value: ArrayBufferView,
    bytes: number,
  ): number;
  cublasLtMatmulPreferenceCreate(preference: BigUint64Array): number;
  cublasLtMatmulPreferenceDestroy(preference: number): number;
  cublasLtMatmulPreferenceSetAttribute(
    preference: number,
    attribute: number,
    value: ArrayBufferView,
    bytes: number,
  ): number;
  cublasLtMatmulAlgoGetHeuristic(
    handle: number,
    desc: number,
    a: number,
    b: number,
    c: number,
    d: number,
    preference: number,
    requested: number,
    results: Uint8Array,
    count: Int32Array,
  ): number;
  cublasLtMatmul(
    handle: number,
    desc: number,
    alpha: number,
    a: number,
    layoutA: number,
    b: number,
    layoutB: number,
    beta: number,
    c: number,
    layoutC: number,
    d: number,
    layoutD: number,
    algo: number,
    workspace: number,
    workspaceBytes: number,
    stream: number,
  ): number;
}

/** One word a parameter: i int, l 64 bits, p a pointer to a typed array. */
const signatures: Record<keyof CublasLtFunctions, string> = {
  cublasLtCreate: 'p',
  cublasLtMatmulDescCreate: 'p i i',
  cublasLtMatmulDescDestroy: 'l',
  cublasLtMatmulDescSetAttribute: 'l i p l',
  cublasLtMatrixLayoutCreate: 'p i l l l',
  cublasLtMatrixLayoutDestroy: 'l',
  cublasLtMatrixLayoutSetAttribute: 'l i p l',
  cublasLtMatmulPreferenceCreate: 'p',
  cublasLtMatmulPreferenceDestroy: 'l',
  cublasLtMatmulPreferenceSetAttribute: 'l i p l',
  cublasLtMatmulAlgoGetHeuristic: 'l l l l l l l i p p',
  cublasLtMatmul: 'l l l l l l l l l l l l l l l l',
};
const types: Record<string, string> = { i: 'int', l: 'uint64', p: 'void *' };

/** cuBLASLt's numbers, from its headers. */
export const COMPUTE_32F = 68;
export const COMPUTE_32F_FAST_TF32 = 77;
export const TYPE_32F = 0;
export const TYPE_16F = 2;
export const TYPE_16BF = 14;
export const DESC_TRANSA = 3;
export const DESC_TRANSB = 4;
export const DESC_EPILOGUE = 7;
export const DESC_BIAS_POINTER = 8;
export const EPILOGUE_RELU = 2;
export const EPILOGUE_BIAS = 4;
export const LAYOUT_BATCH_COUNT = 5;
export const LAYOUT_STRIDED_BATCH_OFFSET = 6;
export const PREFERENCE_MAX_WORKSPACE_BYTES = 1;
export const PREFERENCE_REDUCTION_SCHEME_MASK = 3;
/** Of a, b, c and d: 5, 6, 7, 8. */
export const PREFERENCE_MIN_ALIGNMENT_A_BYTES = 5;
/** Parts of a split sum are kept and added in float32, in a fixed order. */
export const REDUCTION_SCHEME_COMPUTE_TYPE = 2;
/** sizeof(cublasLtMatmulHeuristicResult_t): an algorithm of 64 bytes, its workspace, its state, and what is not used. */
export const HEURISTIC_BYTES = 96;
export const ALGORITHM_BYTES = 64;
export const HEURISTIC_STATE_OFFSET = 72;

const STATUS: Record<number, string> = {
  1: 'CUBLAS_STATUS_NOT_INITIALIZED',
  3: 'CUBLAS_STATUS_ALLOC_FAILED',
  7: 'CUBLAS_STATUS_INVALID_VALUE',
  8: 'CUBLAS_STATUS_ARCH_MISMATCH',
  13: 'CUBLAS_STATUS_EXECUTION_FAILED',
  14: 'CUBLAS_STATUS_INTERNAL_ERROR',
  15: 'CUBLAS_STATUS_NOT_SUPPORTED',
};

/**
 * Throws where a call of cuBLASLt did not succeed.
 *
 * @throws D2DMoEError CUDA_FAILED, which names the call.
 */
export function checkLt(status: number, call: string): void {
  if (status === 0) return;
  throw new D2DMoEError(
    'CUDA_FAILED',
    `${call} failed with ${STATUS[status] ?? `status ${status}`}.`,
  );
}

/** cuBLASLt, opened. */
export interface CublasLt extends CublasLtFunctions {
  /** File name of the library. */
  readonly file: string;
}

/**
 * Opens cuBLASLt.
 *
 * @param candidates File names to try, in order.
 * @returns Undefined where none of them opens: nothing needs it.
 * @throws D2DMoEError CUDA_FAILED where the file that D2DMOE_LIBCUBLASLT names cannot be opened.
 */
export function openCublasLt(
  candidates: Iterable<string> = cublasLtCandidates(),
): CublasLt | undefined {
  const named = process.env['D2DMOE_LIBCUBLASLT'];
  for (const library of candidates) {
    let handle: LibraryHandle;
    try {
      handle = koffi.load(library);
    } catch (error) {
      if (library !== named) continue;
      throw new D2DMoEError(
        'CUDA_FAILED',
        `D2DMOE_LIBCUBLASLT names ${library}, which cannot be opened (${error instanceof Error ? error.message : String(error)}): name the file libcublasLt.so.13 or .12, or unset it.`,
        { cause: error },
      );
    }
    const functions: Record<string, unknown> = {};
    for (const [name, words] of Object.entries(signatures)) {
      const parameters = words.split(' ').map((word) => types[word] ?? word);
      functions[name] = handle.func(name, 'int', parameters);
    }
    return { ...(functions as unknown as CublasLtFunctions), file: library };
  }
  return undefined;
}
