import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from '../kernels/config.js';
import { kernel } from '../launch.js';

const selectKernel = kernel('experts-select', 'experts_select', 'p p l i i i f');
const bitsKernel = kernel('experts-select', 'experts_bits', 'p p l i');
const countKernel = kernel('experts-select', 'experts_group_count', 'p p l i');
const scanKernel = kernel('experts-select', 'experts_group_scan', 'p p i i');
const fillKernel = kernel('experts-select', 'experts_group_fill', 'p p p p p l i');

/** A rule of packages/kernels. */
export interface SelectionRule {
  rule: 'threshold' | 'topK' | 'cumulativeShare';
  value: number;
}

/** As experts.cuh numbers them. */
export const RULES: Record<SelectionRule['rule'], number> = {
  threshold: 0,
  topK: 1,
  cumulativeShare: 2,
};

const SHARED_BYTES = 48 * 1024;
const SPAN_ROWS = 256;

/** The experts of each row, bool [N, n], from norms of at least 0, or by the magnitudes of `signed` numbers. */
export function selectExperts(
  backend: CudaBackend,
  norms: TensorInfo,
  { rule, value }: SelectionRule,
  sign: 'signed' | 'positive' = 'positive',
): TensorInfo {
  const [rows = 0, experts = 0] = norms.shape;
  const out = backend.output([rows, experts], 'bool');
  if (rows === 0 || experts === 0) return out;
  // A row's norms and bits for each warp.
  const bytes = (experts + Math.ceil(experts / 32)) * 4;
  const warps = Math.max(1, Math.min(8, Math.floor(SHARED_BYTES / bytes)));
  backend.launch(
    selectKernel,
    Math.min(Math.ceil(rows / warps), backend.device.multiprocessors * 8),
    warps * 32,
    [
      backend.pointer(norms),
      out.pointer,
      rows,
      experts,
      sign === 'signed' ? 1 : 0,
      RULES[rule],
      value,
    ],
    warps * bytes,
  );
  return out;
}

/** SelectExperts of packages/kernels; the selection is an ordinary bool tensor. */
export const selectionKernels: KernelConfig[] = [
  cudaKernel<{ predictedNorms: TensorInfo }, SelectionRule>(
    'SelectExperts',
    ({ inputs, attrs, backend }) => selectExperts(backend, inputs.predictedNorms, attrs),
  ),
];

/** Device memory that launches read, to be freed when all of them are enqueued. */
export interface Memory {
  readonly pointer: number;
  free(): void;
}

/** A bool selection [N, n] as bits: uint32 [N, ceil(n / 32)], expert i being bit i % 32 of word ⌊i / 32⌋. */
export function selectionBits(backend: CudaBackend, selection: TensorInfo): Memory {
  const [rows = 0, experts = 0] = selection.shape;
  const words = Math.ceil(experts / 32);
  const memory = backend.scratch(rows * words * 4);
  backend.launch(bitsKernel, backend.blocks(rows * words), 256, [
    backend.pointer(selection),
    memory.pointer,
    rows,
    experts,
  ]);
  return memory;
}

/** The rows of each expert. */
export interface Groups {
  /** int32 [n]: rows of each expert. */
  readonly counts: number;
  /** int32 [n + 1]: rows of all experts before it. */
  readonly offsets: number;
  /** int32 [offsets[n]], in memory for N · n: rows, expert by expert, ascending. */
  readonly rows: number;
  free(): void;
}

/** Groups rows by expert from the bits of {@link selectionBits}; the host learns nothing of it. */
export function groupRows(
  backend: CudaBackend,
  bits: number,
  rows: number,
  experts: number,
): Groups {
  const spans = Math.ceil(rows / SPAN_ROWS);
  const words = Math.ceil(experts / 32);
  const tables = backend.scratch((2 * experts + 1) * 4);
  const list = backend.scratch(rows * experts * 4);
  const before = backend.scratch(experts * spans * 4);
  const counts = tables.pointer;
  const offsets = counts + experts * 4;
  backend.launch(countKernel, [spans, words, 1], SPAN_ROWS, [bits, before.pointer, rows, experts]);
  backend.launch(scanKernel, Math.ceil(experts / 8), 256, [before.pointer, counts, experts, spans]);
  backend.launch(fillKernel, [spans, words, 1], SPAN_ROWS, [
    bits,
    before.pointer,
    counts,
    offsets,
    list.pointer,
    rows,
    experts,
  ]);
  before.free();
  return {
    counts,
    offsets,
    rows: list.pointer,
    free() {
      tables.free();
      list.free();
    },
  };
}
