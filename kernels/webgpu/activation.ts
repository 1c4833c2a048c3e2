/** Activations that the product kernels apply, by the names of @d2dmoe/kernels. */
export type Activation = 'relu' | 'gelu' | 'gelu_tanh' | 'silu';

/**
 * WGSL of `fn activate(x: vec4<f32>) -> vec4<f32>`.
 *
 * WGSL has no erf, and its tanh may overflow: GELU takes Abramowitz and Stegun's formula 7.1.26 (good to 1.5e-7), its
 * tanh form is written as x·σ(2g), and exponents stay where exp is finite.
 */
export function activationSource(activation: Activation): string {
  return sources[activation];
}

const sigmoid = `
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
  return 1.0 / (1.0 + exp(clamp(-x, vec4<f32>(-80.0), vec4<f32>(80.0))));
}`;

const sources: Record<Activation, string> = {
  relu: `
fn activate(x: vec4<f32>) -> vec4<f32> {
  return max(x, vec4<f32>(0.0));
}`,
  gelu: `
// x·Φ(x) with Φ(−|x|) = ½·erfc(|x|/√2) from the formula's own tail, so that it keeps its digits where x < 0.
fn activate(x: vec4<f32>) -> vec4<f32> {
  let z = abs(x) * 0.7071067811865476;
  let t = 1.0 / (1.0 + 0.3275911 * z);
  let series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  let tail = 0.5 * series * exp(-min(z * z, vec4<f32>(80.0)));
  return x * select(tail, 1.0 - tail, x > vec4<f32>(0.0));
}`,
  gelu_tanh: `${sigmoid}
fn activate(x: vec4<f32>) -> vec4<f32> {
  return x * sigmoid(1.5957691216057308 * x * (1.0 + 0.044715 * x * x));
}`,
  silu: `${sigmoid}
fn activate(x: vec4<f32>) -> vec4<f32> {
  return x * sigmoid(x);
}`,
};
