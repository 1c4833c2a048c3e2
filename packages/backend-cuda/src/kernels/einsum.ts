import {
  BatchMatMul,
  backend_util,
  Cast,
  Einsum,
  type EinsumAttrs,
  type EinsumInputs,
  Identity,
  type KernelConfig,
  Multiply,
  Sum,
  type TensorInfo,
  upcastType,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { reshape, transpose } from './arrays.js';
import { cudaKernel } from './config.js';
import { runKernel } from './run.js';

/** A tensor whose axes have names: dimension `axes[i]` of the equation lies along axis i. */
interface Term {
  readonly tensor: TensorInfo;
  readonly axes: readonly number[];
}

/** The steps of one equation; all that they make is kept until the end. */
class Steps {
  readonly #made: TensorInfo[] = [];
  readonly #backend: CudaBackend;

  constructor(backend: CudaBackend) {
    this.#backend = backend;
  }

  #keep(tensor: TensorInfo): TensorInfo {
    this.#made.push(tensor);
    return tensor;
  }

  run(
    name: string,
    inputs: Record<string, TensorInfo>,
    attrs?: Record<string, unknown>,
  ): TensorInfo {
    return this.#keep(runKernel(this.#backend, name, inputs, attrs));
  }

  reshape(tensor: TensorInfo, shape: readonly number[]): TensorInfo {
    return this.#keep(reshape(this.#backend, tensor, shape));
  }

  /** The term with its axes in the order `axes`. */
  arrange({ tensor, axes: from }: Term, axes: readonly number[]): Term {
    if (util.arraysEqual([...from], [...axes])) return { tensor, axes };
    const perm = axes.map((axis) => from.indexOf(axis));
    return { tensor: this.#keep(transpose(this.#backend, tensor, perm)), axes };
  }

  /** The term summed over the axes that `keep` refuses. */
  reduce(term: Term, keep: (axis: number) => boolean): Term {
    const axes = term.axes.filter(keep);
    const summed = term.axes.flatMap((axis, i) => (keep(axis) ? [] : [i]));
    if (summed.length === 0) return term;
    const tensor = this.run(Sum, { x: term.tensor }, { axis: summed, keepDims: false });
    return { tensor, axes };
  }

  /** Gives back everything but the output. */
  finish(output: TensorInfo): TensorInfo {
    const result = runKernel(this.#backend, Identity, { x: output });
    for (const tensor of this.#made) this.#backend.disposeIntermediateTensorInfo(tensor);
    return result;
  }
}

/**
 * The product of two terms, summed over the dimensions that both have and the output has not. Each axis is of the
 * batch (in both terms and the output), contracted, or of one term alone: a batch of matrix products.
 */
function product(steps: Steps, a: Term, b: Term, isOutput: (axis: number) => boolean): Term {
  const shared = a.axes.filter((axis) => b.axes.includes(axis));
  const batch = shared.filter(isOutput);
  const contracted = shared.filter((axis) => !isOutput(axis));
  const rows = a.axes.filter((axis) => !shared.includes(axis));
  const columns = b.axes.filter((axis) => !shared.includes(axis));

  const sizeOf = (axis: number) =>
    (a.tensor.shape[a.axes.indexOf(axis)] ?? b.tensor.shape[b.axes.indexOf(axis)]) as number;
  const count = (axes: readonly number[]) => util.sizeFromShape(axes.map(sizeOf));
  const [products, m, k, n] = [count(batch), count(rows), count(contracted), count(columns)];

  const left = steps.arrange(a, [...batch, ...rows, ...contracted]).tensor;
  const right = steps.arrange(b, [...batch, ...contracted, ...columns]).tensor;
  const axes = [...batch, ...rows, ...columns];
  let tensor: TensorInfo;
  if (contracted.length > 0 && rows.length + columns.length > 0) {
    tensor = steps.run(
      BatchMatMul,
      {
        a: steps.reshape(left, [products, m, k]),
        b: steps.reshape(right, [products, k, n]),
      },
      { transposeA: false, transposeB: false },
    );
  } else {
    // Without a contraction, or with nothing but it, a product of matrices would be all overhead.
    const all = steps.run(Multiply, {
      a: steps.reshape(left, [products, m, k, 1]),
      b: steps.reshape(right, [products, 1, k, n]),
    });
    tensor = steps.run(Sum, { x: all }, { axis: [2], keepDims: false });
  }
  return { tensor: steps.reshape(tensor, axes.map(sizeOf)), axes };
}

function einsum(
  backend: CudaBackend,
  tensors: readonly TensorInfo[],
  equation: string,
): TensorInfo {
  const { allDims, summedDims, idDims } = backend_util.decodeEinsumEquation(
    equation,
    tensors.length,
  );
  // The typed signature asks for tensors; shapes are all that is looked at.
  backend_util.checkEinsumDimSizes(allDims.length, idDims, tensors as never);
  const isOutput = (axis: number) => !summedDims.includes(axis);

  const steps = new Steps(backend);
  const dtype = tensors.map((t) => t.dtype).reduce((x, y) => upcastType(x, y));
  const terms = tensors.map((tensor, i): Term => {
    const x = tensor.dtype === dtype ? tensor : steps.run(Cast, { x: tensor }, { dtype });
    // What only this term has and the output has not can be summed first.
    const others = idDims.filter((_, j) => j !== i).flat();
    return steps.reduce(
      { tensor: x, axes: idDims[i] ?? [] },
      (axis) => isOutput(axis) || others.includes(axis),
    );
  });
  const result = terms.reduce((a, b) => product(steps, a, b, isOutput));
  const order = allDims.map((_, axis) => axis).filter(isOutput);
  return steps.finish(steps.arrange(result, order).tensor);
}

/** Sums of products in Einstein's notation. */
export const einsumKernels: KernelConfig[] = [
  // tfjs passes the tensors as an array, which its type of inputs allows.
  cudaKernel<EinsumInputs, EinsumAttrs>(Einsum, ({ inputs, attrs, backend }) =>
    einsum(backend, inputs, attrs.equation),
  ),
];
