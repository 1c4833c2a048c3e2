/** The float32 bit pattern of every float16 bit pattern; built on first use (256 KiB). */
let float32Bits: Uint32Array | undefined;

function buildFloat32Bits(): Uint32Array {
  const table = new Uint32Array(0x10000);
  const values = new Float32Array(table.buffer);
  for (let bits = 0; bits < 0x10000; bits++) {
    const sign = (bits & 0x8000) << 16;
    const exponent = (bits >>> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0) {
      // Zero or subnormal: a float32 has room to hold it as a normal number.
      values[bits] = fraction * 2 ** -24;
      table[bits] = (table[bits] as number) | sign;
    } else {
      // Infinities and NaNs keep their all-ones exponent, the others move to float32's bias.
      const wide = exponent === 0x1f ? 0xff : exponent + (127 - 15);
      table[bits] = sign | (wide << 23) | (fraction << 13);
    }
  }
  return table;
}

/**
 * Widens IEEE 754 half precision exactly (NaN payloads included).
 *
 * @param bits Float16 bit patterns, [n].
 * @returns The same values in float32, [n].
 */
export function float16ToFloat32(bits: Uint16Array): Float32Array {
  const table = (float32Bits ??= buildFloat32Bits());
  const wide = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    wide[i] = table[bits[i] as number] as number;
  }
  return new Float32Array(wide.buffer);
}

/**
 * Widens bfloat16 exactly: it is the upper half of a float32.
 *
 * @param bits Bfloat16 bit patterns, [n].
 * @returns The same values in float32, [n].
 */
export function bfloat16ToFloat32(bits: Uint16Array): Float32Array {
  const wide = new Uint32Array(bits.length);
  for (let i = 0; i < bits.length; i++) {
    wide[i] = (bits[i] as number) << 16;
  }
  return new Float32Array(wide.buffer);
}

function bitsOf(values: Float32Array): Uint32Array {
  return new Uint32Array(values.buffer, values.byteOffset, values.length);
}

/**
 * Rounds to IEEE 754 half precision, to nearest, ties to even. From 65,520 on the result is infinite, below 2⁻¹⁴ it
 * is subnormal, a NaN stays a (quiet) NaN.
 *
 * @param values Float32 values, [n].
 * @returns Float16 bit patterns, [n].
 */
export function float32ToFloat16(values: Float32Array): Uint16Array {
  const wide = bitsOf(values);
  const bits = new Uint16Array(wide.length);
  for (let i = 0; i < wide.length; i++) {
    const sign = ((wide[i] as number) >>> 16) & 0x8000;
    const magnitude = (wide[i] as number) & 0x7fffffff;
    let half: number;
    if (magnitude > 0x7f800000) {
      half = 0x7e00 | ((magnitude >>> 13) & 0x3ff);
    } else if (magnitude >= 0x47800000) {
      half = 0x7c00;
    } else if (magnitude >= 0x38800000) {
      // Normal: change the bias, then add just under half a unit; a carry into the exponent is right, up to infinity.
      half = (magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13;
    } else if (magnitude > 0x33000000) {
      // Subnormal, a count of 2⁻²⁴: shift the significand with its hidden bit into place.
      const shift = 126 - (magnitude >>> 23);
      const significand = (magnitude & 0x7fffff) | 0x800000;
      const odd = (significand >>> shift) & 1;
      half = (significand + 2 ** (shift - 1) - 1 + odd) >>> shift;
    } else {
      half = 0;
    }
    bits[i] = sign | half;
  }
  return bits;
}

/**
 * Rounds to bfloat16, to nearest, ties to even. A NaN stays a (quiet) NaN.
 *
 * @param values Float32 values, [n].
 * @returns Bfloat16 bit patterns, [n].
 */
export function float32ToBFloat16(values: Float32Array): Uint16Array {
  const wide = bitsOf(values);
  const bits = new Uint16Array(wide.length);
  for (let i = 0; i < wide.length; i++) {
    const word = wide[i] as number;
    const isNaN = (word & 0x7fffffff) > 0x7f800000;
    bits[i] = isNaN ? (word >>> 16) | 0x40 : (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
  }
  return bits;
}
