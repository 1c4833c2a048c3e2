import {
  type ExpertShape,
  expertHiddenSource,
  expertOutputSource,
  foundPairs,
  foundTiles,
  pitchOf,
  SUM_COLUMNS,
  sumRowsSource,
} from '../../../kernels/webgpu/index.js';
import type { Encoder } from './encode.js';
import type { ExpertsCall } from './experts-call.js';
import { slotsOf, type Tiling, tilingKey } from './many-plan.js';
import { bufferOf, type OpenBackend } from './open-backend.js';
import { paramsAt, uniformParams } from './params.js';
import { remember } from './pipelines.js';
import type { RowBlock } from './row-block.js';

const sourcesOf = remember(
  ({ shape, tiling }: { shape: ExpertShape; tiling: Tiling }) =>
    `${tilingKey(tiling)} ${Object.values(shape).join()}`,
  ({ shape, tiling: { hidden, output } }) => ({
    hidden: expertHiddenSource(shape, hidden, foundTiles),
    output: expertOutputSource(shape, output, foundPairs),
    sum: sumRowsSource(shape.dOut, shape.experts),
  }),
);

/** A block of rows that all have a place in every expert, selected or not: no kernel groups them beforehand. */
export function encodeDirect(
  backend: OpenBackend,
  encoder: Encoder,
  call: ExpertsCall,
  { rows, x, selection, output }: RowBlock,
  tiling: Tiling,
): void {
  const { shape, parts, density } = call;
  const { dOut, experts, expertSize } = shape;
  const sources = sourcesOf({ shape, tiling });
  const biases = bufferOf(backend, call.biases);
  const list = encoder.scratch((rows + 1) * experts * 4);
  const hidden = encoder.scratch(rows * experts * pitchOf(expertSize) * 4);
  const outputs = encoder.scratch(rows * experts * pitchOf(dOut) * 4);
  const uniform = uniformParams(encoder, call, rows);

  const hiddenColumns = Math.ceil(expertSize / tiling.hidden.columns);
  const hiddenSlots = slotsOf(rows, density, tiling.hidden.rows);
  for (const [index, part] of parts.entries()) {
    const matrices = [part.up, ...(part.gate ? [part.gate] : [])].map((tensor) =>
      bufferOf(backend, tensor),
    );
    encoder.dispatch(
      sources.hidden,
      [x, ...matrices, biases, selection, list, hidden, paramsAt(uniform, index)],
      [part.experts * hiddenSlots, hiddenColumns],
    );
  }
  const outputColumns = Math.ceil(dOut / tiling.output.columns);
  const outputSlots = slotsOf(rows, density, tiling.output.rows);
  for (const [index, part] of parts.entries()) {
    encoder.dispatch(
      sources.output,
      [hidden, bufferOf(backend, part.down), list, outputs, paramsAt(uniform, index)],
      [part.experts * outputSlots, outputColumns],
    );
  }
  encoder.dispatch(
    sources.sum,
    [outputs, selection, bufferOf(backend, call.downBias), output, paramsAt(uniform, 0)],
    [rows, Math.ceil(dOut / SUM_COLUMNS)],
  );
}
