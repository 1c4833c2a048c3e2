/** What the kernels' inner loops share. Indices count floats, pointers bytes. */

// @ts-ignore: decorator
@inline
export function at(pointer: usize, index: i32): usize {
  return pointer + ((<usize>index) << 2);
}

/** a·b + c, in one rounding where the engine has relaxed SIMD. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}
