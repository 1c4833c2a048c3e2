/** float32 rounded to bf16, to nearest even, as bits. */
export function bf16Bits(value: number): number {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0] ?? 0;
  const lower = bits & 0xffff;
  const upper = bits >>> 16;
  return lower > 0x8000 || (lower === 0x8000 && (upper & 1) === 1) ? upper + 1 : upper;
}

/** The number that bf16's bits stand for. */
export const ofBf16 = (bits: number): number =>
  new Float32Array(new Uint32Array([bits << 16]).buffer)[0] ?? Number.NaN;
