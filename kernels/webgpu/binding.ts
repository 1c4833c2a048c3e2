/** How weights lie in their buffers. */
export type WeightStorage = 'float32' | 'float16';

/** Numbers from one row of a padded matrix to the next: rows begin at a vec4. */
export function pitchOf(width: number): number {
  return Math.ceil(width / 4) * 4;
}

/** `@binding` declarations of a shader's storage buffers, numbered from 0 in the order of the list. */
export function storageBuffers(
  buffers: readonly (readonly [name: string, type: string, access: 'read' | 'read_write'])[],
): string {
  return buffers
    .map(
      ([name, type, access], index) =>
        `@group(0) @binding(${index}) var<storage, ${access}> ${name}: array<${type}>;`,
    )
    .join('\n');
}

/** The WGSL type that four neighbouring weights are read as. */
export function weightType(storage: WeightStorage): string {
  return storage === 'float16' ? 'vec2<u32>' : 'vec4<f32>';
}

/**
 * An expression for four neighbouring weights as vec4<f32>. float16 needs no shader-f16: unpack2x16float is in every
 * WebGPU, and the sums are float32 anyway.
 */
export function readWeights(buffer: string, index: string, storage: WeightStorage): string {
  const element = `${buffer}[${index}]`;
  return storage === 'float16'
    ? `vec4<f32>(unpack2x16float(${element}.x), unpack2x16float(${element}.y))`
    : element;
}

/**
 * `struct Params` and its uniform, bound after the storage buffers. Every kernel of the expert op has the same one: a
 * call writes them all at once.
 */
export function paramsBinding(index: number): string {
  return `
struct Params {
  // N.
  rows: u32,
  // Tiles that there may be, before what is known about parts.
  tiles: u32,
  // The window of tiles that this dispatch is for, and how many tiles a window has.
  window: u32,
  tileRoom: u32,
  // Parts that the experts are split into, the part of this dispatch, its first expert, experts of a full part.
  parts: u32,
  part: u32,
  firstExpert: u32,
  partExperts: u32,
  // Of this part.
  experts: u32,
}
@group(0) @binding(${index}) var<uniform> params: Params;`;
}

/** Bytes of `Params`, rounded up to what a uniform's offset has to be a multiple of. */
export const PARAMS_STRIDE = 256;
