import { FFT, IFFT, type KernelConfig, type TensorInfo, util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { cudaKernel } from './config.js';
import { launchElements, withScratch, type Tensors } from './run.js';

const roots = kernel('fourier', 'fourier_roots', 'p i i');
const pass = kernel('fourier', 'fourier_pass', 'p p p p p i i i d l');

/** Two float64. */
const ROOT_BYTES = 16;

/** The radices of the passes for `n` points: eights, then what remains of powers of 2, then odd primes. */
function radicesOf(n: number): number[] {
  const radices: number[] = [];
  let rest = n;
  for (const radix of [8, 4, 2]) {
    for (; rest % radix === 0; rest /= radix) radices.push(radix);
  }
  for (let radix = 3; radix * radix <= rest; radix += 2) {
    for (; rest % radix === 0; rest /= radix) radices.push(radix);
  }
  // One point still takes a pass, which copies it.
  if (rest > 1 || radices.length === 0) radices.push(rest);
  return radices;
}

/** The transform of every row along the last axis of a complex64 tensor. `sign`: of the exponent. */
function transform(
  backend: CudaBackend,
  input: TensorInfo,
  sign: 1 | -1,
  scale: number,
): TensorInfo {
  const { real, imag } = backend.complexParts(input);
  const outReal = backend.output(input.shape, 'float32');
  const outImag = backend.output(input.shape, 'float32');
  const total = util.sizeFromShape(input.shape);
  const n = input.shape[input.shape.length - 1] ?? 1;
  if (total > 0) {
    const radices = radicesOf(n);
    const result = [outReal.pointer, outImag.pointer] as const;
    withScratch(backend, n * ROOT_BYTES, (table) =>
      withScratch(backend, radices.length > 1 ? total * 8 : 0, (scratch) => {
        backend.launch(roots, backend.blocks(n), 256, [table, n, sign]);
        const between = [scratch, scratch + total * 4] as const;
        let from: readonly [number, number] = [backend.pointer(real), backend.pointer(imag)];
        let done = 1;
        radices.forEach((radix, i) => {
          const passesLeft = radices.length - 1 - i;
          // The buffers alternate so that the last pass writes the result.
          const to = passesLeft % 2 === 0 ? result : between;
          const factor = passesLeft === 0 ? scale : 1;
          launchElements(backend, pass, total, [...from, ...to, table, n, radix, done, factor]);
          from = to;
          done *= radix;
        });
      }),
    );
  }
  const output = backend.complex(outReal, outImag);
  backend.disposeIntermediateTensorInfo(outReal);
  backend.disposeIntermediateTensorInfo(outImag);
  return output;
}

/** Discrete Fourier transforms along the last axis, of any length. */
export const fourierKernels: KernelConfig[] = [
  cudaKernel<Tensors<'input'>>(FFT, ({ inputs: { input }, backend }) =>
    transform(backend, input, -1, 1),
  ),

  cudaKernel<Tensors<'input'>>(IFFT, ({ inputs: { input }, backend }) => {
    const n = input.shape[input.shape.length - 1] ?? 1;
    return transform(backend, input, 1, 1 / n);
  }),
];
