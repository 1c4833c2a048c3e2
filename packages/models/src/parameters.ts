import type { ParameterSpec } from './architecture.js';

/** A Linear: `name`.weight [dOut, dIn] and, unless told otherwise, `name`.bias [dOut]. */
export function linearSpec(name: string, dIn: number, dOut: number, bias = true): ParameterSpec[] {
  const specs: ParameterSpec[] = [{ name: `${name}.weight`, shape: [dOut, dIn], init: 'normal' }];
  if (bias) specs.push({ name: `${name}.bias`, shape: [dOut], init: 'zeros' });
  return specs;
}

/** A Linear stored transposed, [dIn, dOut], as GPT-2 does. */
export function conv1dSpec(name: string, dIn: number, dOut: number): ParameterSpec[] {
  return [
    { name: `${name}.weight`, shape: [dIn, dOut], init: 'normal' },
    { name: `${name}.bias`, shape: [dOut], init: 'zeros' },
  ];
}

/** A layer norm: `name`.weight [d] and `name`.bias [d]. */
export function layerNormSpec(name: string, d: number): ParameterSpec[] {
  return [
    { name: `${name}.weight`, shape: [d], init: 'ones' },
    { name: `${name}.bias`, shape: [d], init: 'zeros' },
  ];
}

/** An embedding table: `name`.weight [rows, d]. */
export function embeddingSpec(name: string, rows: number, d: number): ParameterSpec {
  return { name: `${name}.weight`, shape: [rows, d], init: 'normal' };
}
