import type { TensorInfo } from '@tensorflow/tfjs-core';
import {
  expertHiddenSource,
  expertOutputSource,
  GROUP_ROWS,
  listRowsSource,
  pitchOf,
  SUM_COLUMNS,
  sumPairsSource,
  type TileSizes,
  tileRowsSource,
  type ExpertShape,
} from '../../../kernels/webgpu/index.js';
import { encodeDirect } from './direct-rows.js';
import { type Encoder, encode } from './encode.js';
import type { ExpertsCall } from './experts-call.js';
import { subgroupOf, workgroupBytesOf } from './limits.js';
import {
  isDirect,
  planMany,
  rowsOfBlock,
  type Tiling,
  tilingKey,
  tilingOf,
  workgroupsOf,
} from './many-plan.js';
import { bufferOf, type OpenBackend } from './open-backend.js';
import { paramsAt, uniformParams } from './params.js';
import { remember } from './pipelines.js';
import { type RowBlock, rowBlock } from './row-block.js';

const sourcesOf = remember(
  ({ shape, tiling, subgroup }: { shape: ExpertShape; tiling: Tiling; subgroup: number }) =>
    `${tilingKey(tiling)} ${subgroup} ${Object.values(shape).join()}`,
  ({ shape, tiling: { hidden, output }, subgroup }) => {
    const { dOut, experts } = shape;
    const sizes: TileSizes = { experts, tileRows: hidden.rows };
    return {
      list: listRowsSource(experts),
      tile: tileRowsSource(sizes, subgroup),
      hidden: expertHiddenSource(shape, hidden),
      output: expertOutputSource(shape, output),
      sum: sumPairsSource(dOut, experts),
    };
  },
);

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
  const { shape, x, selection, biases, downBias, parts, rows, density } = call;
  const weights = parts.flatMap(({ up, gate, down }) => [up, down, ...(gate ? [gate] : [])]);
  const tensors = [x, selection, biases, downBias, out, ...weights];
  encode(backend, 'DynamicKExperts', tensors, (encoder) => {
    const most = rowsOfBlock(shape, bindingBytes);
    for (let first = 0; first < rows; first += most) {
      const block = rowBlock(backend, call, out, first, Math.min(most, rows - first));
      const tiling = tilingOf(shape, block.rows, density, workgroupBytesOf(backend.device));
      if (isDirect(shape, block.rows, bindingBytes)) {
        encodeDirect(backend, encoder, call, block, tiling);
      } else {
        encodeListed(backend, encoder, call, block, tiling, bindingBytes);
      }
    }
  });
}

/** A block of rows that are grouped by expert beforehand, in windows of the pairs that there is room for. */
function encodeListed(
  backend: OpenBackend,
  encoder: Encoder,
  call: ExpertsCall,
  { rows, x, selection, output }: RowBlock,
  tiling: Tiling,
  bindingBytes: number,
): void {
  const { shape, parts, density } = call;
  const { dOut, experts, expertSize } = shape;
  const plan = planMany(shape, rows, tiling.hidden.rows, bindingBytes);
  const { tiles: mostTiles, windows, pairRoom } = plan;
  const sources = sourcesOf({ shape, tiling, subgroup: subgroupOf(backend.device) });
  const biases = bufferOf(backend, call.biases);
  const downBias = bufferOf(backend, call.downBias);

  const list = encoder.scratch(rows * experts * 4);
  const pairs = encoder.scratch(rows * experts * 8);
  const counts = encoder.scratch(rows * 4);
  const firsts = encoder.scratch((experts + 1) * 4);
  const tiles = encoder.scratch((mostTiles + parts.length) * 16);
  const hidden = encoder.scratch(pairRoom * pitchOf(expertSize) * 4);
  const outputs = encoder.scratch(pairRoom * pitchOf(dOut) * 4);
  const uniform = uniformParams(encoder, call, rows, plan);
  const params = paramsAt(uniform, 0);

  // The tile kernel leaves them 0: commands keep their order, so every call finds them so.
  const lengths = encoder.kept(`lengths ${experts}`, experts * 4);
  const groups = Math.ceil(rows / GROUP_ROWS);
  encoder.dispatch(sources.list, [selection, lengths, list, pairs, counts, params], [groups]);
  encoder.dispatch(sources.tile, [lengths, firsts, tiles, params], [1]);
  const hiddenColumns = Math.ceil(expertSize / tiling.hidden.columns);
  const outputColumns = Math.ceil(dOut / tiling.output.columns);
  const sumColumns = Math.ceil(dOut / SUM_COLUMNS);
  for (let window = 0; window < windows; window++) {
    const at = (index: number) => paramsAt(uniform, window * parts.length + index);
    const workgroups = workgroupsOf(plan, experts, density, window);
    for (const [index, part] of parts.entries()) {
      const matrices = [part.up, ...(part.gate ? [part.gate] : [])].map((tensor) =>
        bufferOf(backend, tensor),
      );
      encoder.dispatch(
        sources.hidden,
        [x, ...matrices, biases, list, tiles, hidden, at(index)],
        [workgroups.tiles(part.experts / experts, hiddenColumns), hiddenColumns],
      );
    }
    for (const [index, part] of parts.entries()) {
      encoder.dispatch(
        sources.output,
        [hidden, bufferOf(backend, part.down), tiles, outputs, at(index)],
        [workgroups.tiles(part.experts / experts, outputColumns), outputColumns],
      );
    }
    encoder.dispatch(
      sources.sum,
      [outputs, pairs, counts, firsts, tiles, downBias, output, at(0)],
      [workgroups.rows(rows, sumColumns), sumColumns],
    );
  }
}
