import type { CudaBackend } from '../backend.js';
import type { HalfType } from '../tensor-data.js';

/** The type of a product's matrices on the device. Sums are float32, of int32 int32 modulo 2^32. */
export type ProductType = 'float32' | HalfType | 'int32';

/** What may be applied to every result, after the bias. */
export type Activation = 'linear' | 'relu' | 'relu6' | 'elu' | 'sigmoid' | 'leakyrelu';

/**
 * A batch of matrix products out = activation(op(a) · op(b) + bias) over device memory. Matrices are row-major and dense: op(a) is
 * [m, k], so a lies as [m, k], or as [k, m] with `transposeA`; op(b) is [k, n].
 */
export interface Product {
  /** Device address of the left matrices. */
  a: number;
  /** Device address of the right matrices. */
  b: number;
  /** Device address of the results, [batch, m, n]. */
  out: number;
  /** Number of products; default 1. */
  batch?: number;
  /** Rows of a result. */
  m: number;
  /** Columns of a result. */
  n: number;
  /** Columns of op(a) and rows of op(b), which are summed over. */
  k: number;
  /** Default false. */
  transposeA?: boolean;
  /** Default false. */
  transposeB?: boolean;
  /** Elements from one left matrix to the next; 0 uses one for all; default m · k. */
  strideA?: number;
  /** Elements from one right matrix to the next; 0 uses one for all; default k · n. */
  strideB?: number;
  /** Elements from one result to the next; default m · n. */
  strideOut?: number;
  /** Device address of n values of the result's type, added to every row. */
  bias?: number | undefined;
  /** Default 'linear'; int32 results have no other. */
  activation?: Activation;
  /** Slope of 'leakyrelu' below zero; default 0. */
  alpha?: number;
  /** Type of a and b; default 'float32'. */
  operands?: ProductType;
  /** Type of out and bias: that of the operands, which is the default, or 'float32' where those have 16 bits. */
  result?: ProductType;
  /**
   * Whether float32 operands may be rounded to tf32 (10 bits of mantissa). Default: unless backend.precision is
   * 'float32'.
   */
  tf32?: boolean;
}

/** A {@link Product} with every default filled in. */
export type FullProduct = Required<Omit<Product, 'bias'>> & Pick<Product, 'bias'>;

/** Bytes of one element. */
export const BYTES: Record<ProductType, number> = { float32: 4, bf16: 2, fp16: 2, int32: 4 };

/** Fills in what a product leaves out. Every field by name: V8 takes microseconds for a spread with some of them replaced. */
export function complete(precision: CudaBackend['precision'], product: Product): FullProduct {
  const { a, b, out, m, n, k, bias, operands = 'float32' } = product;
  return {
    a,
    b,
    out,
    batch: product.batch ?? 1,
    m,
    n,
    k,
    transposeA: product.transposeA ?? false,
    transposeB: product.transposeB ?? false,
    strideA: product.strideA ?? m * k,
    strideB: product.strideB ?? k * n,
    strideOut: product.strideOut ?? m * n,
    bias,
    activation: product.activation ?? 'linear',
    alpha: product.alpha ?? 0,
    operands,
    result: product.result ?? operands,
    tf32: operands === 'float32' && (product.tf32 ?? precision !== 'float32'),
  };
}

/** Floating-point operations of a product. */
export function operationsOf({ batch, m, n, k }: FullProduct): number {
  return 2 * batch * m * n * k;
}
