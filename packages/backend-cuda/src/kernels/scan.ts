import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';
import { withScratch } from './run.js';

const BLOCK = 256;
/** Lines that lie side by side go to one thread each from this many on. */
const THREAD_LINES = 32;

/** The two forms of a scan in scan.cu. */
interface Scan {
  readonly block: Kernel;
  readonly thread: Kernel;
}

const SIGNATURE = 'p p p l l l l i i i';

function scan(name: string): Scan {
  return {
    block: kernel('scan', `scan_block_${name}`, SIGNATURE),
    thread: kernel('scan', `scan_thread_${name}`, SIGNATURE),
  };
}

interface ScanAttrs {
  axis: number;
  exclusive?: boolean;
  reverse?: boolean;
}

/** Enqueues a scan over device memory seen as [outer, n, inner]. */
function scanView(
  backend: CudaBackend,
  { block, thread }: Scan,
  [outer, n, inner]: readonly [number, number, number],
  from: number,
  to: number,
  { exclusive = false, reverse = false }: Omit<ScanAttrs, 'axis'>,
): void {
  const lines = outer * inner;
  if (lines * n === 0) return;
  const { multiprocessors } = backend.device;
  const byThread = inner >= THREAD_LINES;
  const wanted = byThread
    ? Math.min((multiprocessors * 512) / lines, n / 128)
    : Math.min((multiprocessors * 2) / lines, n / 4096);
  const chunk = Math.ceil(n / Math.max(1, Math.min(65_535, Math.ceil(wanted))));
  const chunks = Math.ceil(n / chunk);
  const launch = (out: number, before: number, totals: boolean): void => {
    const blocks = byThread ? Math.ceil(lines / BLOCK) : lines;
    backend.launch(byThread ? thread : block, [blocks, chunks, 1], BLOCK, [
      from,
      out,
      before,
      lines,
      n,
      inner,
      chunk,
      Number(reverse),
      Number(exclusive),
      Number(totals),
    ]);
  };
  if (chunks === 1) {
    launch(to, 0, false);
    return;
  }
  withScratch(backend, lines * chunks * 8, (totals) => {
    const before = totals + lines * chunks * 4;
    launch(totals, 0, true);
    const args = [totals, before, 0, lines, chunks, 1, chunks, 0, 1, 0];
    backend.launch(block, [lines, 1, 1], BLOCK, args);
    launch(to, before, false);
  });
}

/** Cumulative sums of the rows of float32 device memory [rows, n]. */
export function cumulativeRows(
  backend: CudaBackend,
  rows: number,
  n: number,
  from: number,
  to: number,
): void {
  scanView(backend, sumFloat, [rows, n, 1], from, to, {});
}

const sumFloat = scan('sum_f32');
const sumInt = scan('sum_i32');
const prodFloat = scan('prod_f32');
const prodInt = scan('prod_i32');

function cumulative(kernelName: string, floats: Scan, integers: Scan): KernelConfig {
  return cudaKernel<{ x: TensorInfo }, ScanAttrs>(
    kernelName,
    ({ inputs: { x }, attrs, backend }) => {
      requireReal(kernelName, x);
      const [axis = 0] = util.parseAxisParam(attrs.axis, x.shape);
      const view = [
        util.sizeFromShape(x.shape.slice(0, axis)),
        x.shape[axis] ?? 1,
        util.sizeFromShape(x.shape.slice(axis + 1)),
      ] as const;
      const dtype = x.dtype === 'float32' ? 'float32' : 'int32';
      return withType(backend, x, dtype, (operand) => {
        const out = backend.output(x.shape, dtype);
        const which = dtype === 'float32' ? floats : integers;
        scanView(backend, which, view, backend.pointer(operand), out.pointer, attrs);
        return out;
      });
    },
  );
}

/** Cumulative sums and products. */
export const scanKernels: KernelConfig[] = [
  cumulative('Cumsum', sumFloat, sumInt),
  cumulative('Cumprod', prodFloat, prodInt),
];
