import { PARAMS_STRIDE } from '../../../kernels/webgpu/index.js';
import type { Encoder } from './encode.js';
import type { ExpertsCall } from './experts-call.js';

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

/**
 * A uniform buffer with one `Params` after the other; `paramsAt` finds them again.
 *
 * @param key What they all follow from.
 */
export function uniformParams(
  encoder: Encoder,
  key: readonly number[],
  all: () => readonly Params[],
): GPUBuffer {
  return encoder.uniform(key.join(), () => packParams(all()));
}

/** The same of the kernels that know nothing of tiles: one for each part of the experts. */
export function partParams(
  encoder: Encoder,
  { shape: { experts }, parts, partExperts }: ExpertsCall,
  rows: number,
): GPUBuffer {
  return uniformParams(encoder, [rows, experts, partExperts], () =>
    parts.map((part, index) => ({
      rows,
      tiles: 0,
      window: 0,
      tileRoom: 0,
      parts: parts.length,
      part: index,
      firstExpert: part.firstExpert,
      partExperts,
      experts: part.experts,
    })),
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
