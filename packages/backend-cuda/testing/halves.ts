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

/** A number below 65,504 rounded to fp16, to nearest even. */
function nearestFp16(value: number): number {
  if (value === 0) return value;
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(value))));
  const step = 2 ** (exponent - 10);
  const steps = value / step;
  const rounded = Math.round(steps);
  const isTie = Math.abs(rounded - steps) === 0.5;
  return (isTie && rounded % 2 !== 0 ? rounded - 1 : rounded) * step;
}

/** A number rounded to one of the types of 16 bits, to nearest even. */
export const nearest = {
  bf16: (value: number): number => ofBf16(bf16Bits(value)),
  fp16: nearestFp16,
};
