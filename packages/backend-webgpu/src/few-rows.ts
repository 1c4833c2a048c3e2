import {
  FEW_COLUMNS,
  FEW_NEURONS,
  fewHiddenSource,
  fewOutputSource,
  pitchOf,
  type ExpertShape,
} from '../../../kernels/webgpu/index.js';
import { encode } from './encode.js';
import type { ExpertsCall } from './experts-call.js';
import { subgroupOf } from './limits.js';
import { bufferOf, type OpenBackend } from './open-backend.js';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { paramsAt, uniformParams } from './params.js';
import { remember } from './pipelines.js';

/** The most rows of the path that reads each weight once for all of them. */
export const MOST_FEW_ROWS = 8;

const sourcesOf = remember(
  ({ shape, rowRoom, subgroup }: { shape: ExpertShape; rowRoom: number; subgroup: number }) =>
    `${rowRoom} ${subgroup} ${Object.values(shape).join()}`,
  ({ shape, rowRoom, subgroup }) => ({
    hidden: fewHiddenSource(shape, rowRoom, subgroup),
    output: fewOutputSource(shape, rowRoom),
  }),
);

/** The expert op for up to {@link MOST_FEW_ROWS} rows: weights of experts that no row runs are not read. */
export function fewRows(backend: OpenBackend, call: ExpertsCall, out: TensorInfo): void {
  const { shape, rows, x, selection, biases, downBias, parts } = call;
  const { dOut, experts, expertSize } = shape;
  const rowRoom = 2 ** Math.ceil(Math.log2(rows));
  const sources = sourcesOf({ shape, rowRoom, subgroup: subgroupOf(backend.device) });
  const weights = parts.flatMap(({ up, gate, down }) => [up, down, ...(gate ? [gate] : [])]);
  const pitch = pitchOf(dOut);
  encode(
    backend,
    'DynamicKExperts',
    [x, selection, biases, downBias, out, ...weights],
    (encoder) => {
      const uniform = uniformParams(encoder, call, rows);
      const hidden = encoder.scratch(experts * expertSize * rowRoom * 4);
      for (const [index, { experts: count, up, gate }] of parts.entries()) {
        encoder.dispatch(
          sources.hidden,
          [
            bufferOf(backend, x),
            bufferOf(backend, up),
            ...(gate ? [bufferOf(backend, gate)] : []),
            bufferOf(backend, biases),
            bufferOf(backend, selection),
            hidden,
            paramsAt(uniform, index),
          ],
          [Math.ceil((count * expertSize) / FEW_NEURONS)],
        );
      }
      for (const [index, { down }] of parts.entries()) {
        encoder.dispatch(
          sources.output,
          [
            hidden,
            bufferOf(backend, down),
            bufferOf(backend, downBias),
            bufferOf(backend, out),
            paramsAt(uniform, index),
          ],
          [Math.ceil(pitch / FEW_COLUMNS)],
        );
      }
    },
  );
}
