import type { TensorInfo } from '@tensorflow/tfjs-core';
import {
  countRowsSource,
  expertHiddenSource,
  expertOutputSource,
  GROUP_ROWS,
  groupRowsSource,
  listRowsSource,
  MOST_GROUPED_EXPERTS,
  pitchOf,
  scanRowsSource,
  SUM_COLUMNS,
  sumPairsSource,
  type TileSizes,
  tileRowsSource,
  type ExpertShape,
} from '../../../kernels/webgpu/index.js';
import { type Encoder, encode } from './encode.js';
import type { ExpertsCall, Part } from './experts-call.js';
import { subgroupOf } from './limits.js';
import { planMany, rowsOfBlock, type Tiling, tilingOf } from './many-plan.js';
import { bufferOf, type OpenBackend } from './open-backend.js';
import { paramsAt, uniformParams } from './params.js';
import { remember } from './pipelines.js';

const tileKey = ({ hidden, output }: Tiling) =>
  [...Object.values(hidden), ...Object.values(output)].join();

const sourcesOf = remember(
  ({ shape, tiling, subgroup }: { shape: ExpertShape; tiling: Tiling; subgroup: number }) =>
    `${tileKey(tiling)} ${subgroup} ${Object.values(shape).join()}`,
  ({ shape, tiling: { hidden, output }, subgroup }) => {
    const { dOut, experts } = shape;
    const sizes: TileSizes = { experts, tileRows: hidden.rows };
    return {
      group: groupRowsSource(sizes, subgroup),
      count: countRowsSource(experts),
      scan: scanRowsSource(experts, subgroup),
      list: listRowsSource(experts),
      tile: tileRowsSource(sizes, subgroup),
      hidden: expertHiddenSource(shape, hidden),
      output: expertOutputSource(shape, output),
      sum: sumPairsSource(dOut),
    };
  },
);

/** The most (row, expert) pairs that one workgroup groups faster than several dispatches do. */
const MOST_GROUPED = 2 ** 14;

/**
 * The expert op for many rows: they are grouped by expert, and each expert's are multiplied together. In blocks of rows
 * where a tensor is larger than `bindingBytes`, the most that a kernel of this device may see of a buffer.
 */
export function manyRows(
  backend: OpenBackend,
  call: ExpertsCall,
  out: TensorInfo,
  bindingBytes: number,
): void {
  const { x, selection, biases, downBias, parts, rows } = call;
  const weights = parts.flatMap(({ up, gate, down }) => [up, down, ...(gate ? [gate] : [])]);
  const tensors = [x, selection, biases, downBias, out, ...weights];
  encode(backend, 'DynamicKExperts', tensors, (encoder) => {
    const block = rowsOfBlock(call.shape, bindingBytes);
    for (let first = 0; first < rows; first += block) {
      encodeBlock(backend, encoder, call, out, bindingBytes, first, Math.min(block, rows - first));
    }
  });
}

function encodeBlock(
  backend: OpenBackend,
  encoder: Encoder,
  call: ExpertsCall,
  out: TensorInfo,
  bindingBytes: number,
  first: number,
  rows: number,
): void {
  const { shape, parts, partExperts, density } = call;
  const { dIn, dOut, experts, expertSize } = shape;
  const tiling = tilingOf(shape, rows, density);
  const plan = planMany(shape, rows, tiling.hidden.rows, bindingBytes);
  const { windows, stride, pairRoom, tileRoom } = plan;
  const sources = sourcesOf({ shape, tiling, subgroup: subgroupOf(backend.device) });
  const rowsOf = (tensor: TensorInfo, bytes: number) => ({
    buffer: bufferOf(backend, tensor),
    offset: first * bytes,
    size: rows * bytes,
  });
  const x = rowsOf(call.x, dIn * 4);
  const selection = rowsOf(call.selection, experts * 4);
  const output = rowsOf(out, dOut * 4);
  const biases = bufferOf(backend, call.biases);
  const downBias = bufferOf(backend, call.downBias);

  const starts = encoder.scratch((rows + windows + 2) * 4);
  const lengths = encoder.scratch(windows * experts * 4);
  const list = encoder.scratch(rows * experts * 8);
  const tiles = encoder.scratch(windows * (tileRoom + parts.length) * 16);
  const hidden = encoder.scratch(pairRoom * pitchOf(expertSize) * 4);
  const outputs = encoder.scratch(pairRoom * pitchOf(dOut) * 4);
  const uniform = uniformParams(
    encoder,
    Array.from({ length: windows }, (_, window) =>
      parts.map((part, index) => ({
        rows,
        windows,
        window,
        stride,
        tileRoom,
        parts: parts.length,
        part: index,
        firstExpert: part.firstExpert,
        partExperts,
        experts: part.experts,
      })),
    ).flat(),
  );
  const params = paramsAt(uniform, 0);

  const atOnce = windows === 1 && rows * experts <= MOST_GROUPED && experts <= MOST_GROUPED_EXPERTS;
  if (atOnce) {
    encoder.dispatch(sources.group, [selection, starts, list, tiles, params], [1]);
  } else {
    const groups = Math.ceil(rows / GROUP_ROWS);
    encoder.dispatch(sources.count, [selection, starts, params], [groups]);
    encoder.dispatch(sources.scan, [starts, lengths, params], [1]);
    encoder.dispatch(sources.list, [selection, starts, lengths, list, params], [groups]);
    encoder.dispatch(sources.tile, [starts, lengths, tiles, params], [windows]);
  }
  const hiddenColumns = Math.ceil(expertSize / tiling.hidden.columns);
  const outputColumns = Math.ceil(dOut / tiling.output.columns);
  for (let window = 0; window < windows; window++) {
    const at = (index: number) => paramsAt(uniform, window * parts.length + index);
    /**
     * As many workgroups as a part may have tiles; those without one end at once. Their number is known to the device
     * alone, but Dawn checks an indirect dispatch by a dispatch and a buffer of its own, which takes longer.
     */
    const most = (part: Part) =>
      Math.min(tileRoom, part.experts * Math.ceil(rows / tiling.hidden.rows));
    for (const [index, part] of parts.entries()) {
      const matrices = [part.up, ...(part.gate ? [part.gate] : [])].map((tensor) =>
        bufferOf(backend, tensor),
      );
      encoder.dispatch(
        sources.hidden,
        [x, ...matrices, biases, list, tiles, hidden, at(index)],
        [most(part), hiddenColumns],
      );
    }
    for (const [index, part] of parts.entries()) {
      encoder.dispatch(
        sources.output,
        [hidden, bufferOf(backend, part.down), list, tiles, outputs, at(index)],
        [most(part), outputColumns],
      );
    }
    encoder.dispatch(
      sources.sum,
      [outputs, starts, downBias, output, at(0)],
      [rows, Math.ceil(dOut / SUM_COLUMNS)],
    );
  }
}
