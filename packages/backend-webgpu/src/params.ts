import { PARAMS_STRIDE } from '../../../kernels/webgpu/index.js';
import type { Encoder } from './encode.js';
import type { ExpertsCall } from './experts-call.js';
import type { ManyPlan } from './many-plan.js';

/** The fields of the kernels' `Params`, in their order. */
const fields = [
  'rows',
  'tiles',
  'window',
  'tileRoom',
  'parts',
  'part',
  'firstExpert',
  'partExperts',
  'experts',
] as const;

export type Params = Record<(typeof fields)[number], number>;

/** Of kernels that know nothing of tiles. */
const noTiles: Pick<ManyPlan, 'tiles' | 'windows' | 'tileRoom'> = {
  tiles: 0,
  windows: 1,
  tileRoom: 0,
};

/** A uniform buffer with a `Params` for each part of the experts, window after window; `paramsAt` finds them again. */
export function uniformParams(
  encoder: Encoder,
  { shape: { experts }, parts, partExperts }: ExpertsCall,
  rows: number,
  { tiles, windows, tileRoom } = noTiles,
): GPUBuffer {
  const key = [rows, experts, partExperts, tiles, tileRoom];
  return encoder.uniform(key.join(), () =>
    packParams(
      Array.from({ length: windows }, (_, window) =>
        parts.map((part, index) => ({
          rows,
          tiles,
          window,
          tileRoom,
          parts: parts.length,
          part: index,
          firstExpert: part.firstExpert,
          partExperts,
          experts: part.experts,
        })),
      ).flat(),
    ),
  );
}

function packParams(all: readonly Params[]): ArrayBuffer {
  const words = new Uint32Array((all.length * PARAMS_STRIDE) / 4);
  for (const [index, params] of all.entries()) {
    for (const [field, name] of fields.entries()) {
      words[(index * PARAMS_STRIDE) / 4 + field] = params[name];
    }
  }
  return words.buffer;
}

/** The `index`-th Params of a buffer. */
export function paramsAt(buffer: GPUBuffer, index: number) {
  return { buffer, offset: index * PARAMS_STRIDE, size: fields.length * 4 };
}
