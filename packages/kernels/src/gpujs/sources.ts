import type { Activation } from '../types.js';

/** What a kernel of the hidden activations computes. */
export interface HiddenVariant {
  activation: Activation;
  gated: boolean;
}

/** The weights that the kernel of the hidden activations reads, in the order of its arguments where they are that. */
export function hiddenWeights({ gated }: HiddenVariant): string[] {
  return gated ? ['up', 'upBias', 'gate', 'gateBias'] : ['up', 'upBias'];
}

/** The weights that the kernel of the outputs reads, in the order of its arguments where they are that. */
export const outputWeights = ['down', 'downBias'];

/**
 * The hidden activations of the selected experts, as the text of a gpu.js kernel: bundlers rewrite functions, and
 * gpu.js would translate what they made of them. One cell for each neuron x of expert y of token z; a cell whose
 * expert is not selected makes no step of its loop. Adjacent cells are neurons of one expert, which read adjacent
 * weights and take the same branch.
 *
 * Arguments: x [N][dIn], selection [N][n]. Constants: dIn, up and gate [n][dIn][expertSize], upBias and gateBias
 * [n][expertSize], which gpu.js uploads once. Output: [N][n][expertSize].
 */
export function hiddenSource({ activation, gated }: HiddenVariant): string {
  return `function (x, selection) {
    const neuron = this.thread.x;
    const expert = this.thread.y;
    const token = this.thread.z;
    let steps = 0;
    if (selection[token][expert] > 0.5) { steps = this.constants.dIn; }
    let projected = this.constants.upBias[expert][neuron];
    ${gated ? 'let gated = this.constants.gateBias[expert][neuron];' : ''}
    for (let i = 0; i < steps; i++) {
      const input = x[token][i];
      projected += input * this.constants.up[expert][i][neuron];
      ${gated ? 'gated += input * this.constants.gate[expert][i][neuron];' : ''}
    }
    if (steps == 0) { return 0; }
    ${activationSource(activation, gated ? 'gated' : 'projected', 'activated')}
    return activated${gated ? ' * projected' : ''};
  }`;
}

/**
 * The sum of the selected experts' outputs and downBias, as the text of a gpu.js kernel: one cell for each output x of
 * token y, which goes over the neurons of selected experts only.
 *
 * Arguments: hidden [N][n][expertSize], selection [N][n]. Constants: experts, expertSize, down [n][expertSize][dOut],
 * downBias [dOut]. Output: [N][dOut].
 */
export const outputSource = `function (hidden, selection) {
  const column = this.thread.x;
  const token = this.thread.y;
  let sum = this.constants.downBias[column];
  for (let expert = 0; expert < this.constants.experts; expert++) {
    let steps = 0;
    if (selection[token][expert] > 0.5) { steps = this.constants.expertSize; }
    for (let i = 0; i < steps; i++) {
      sum += hidden[token][expert][i] * this.constants.down[expert][i][column];
    }
  }
  return sum;
}`;

/** Statements that declare `result`, the activation of the variable `z`. */
export function activationSource(activation: Activation, z: string, result: string): string {
  return activations[activation](z, result);
}

// Exponents are capped: what GLSL makes of an infinity is up to the driver.
const activations: Record<Activation, (z: string, result: string) => string> = {
  relu: (z, result) => `const ${result} = Math.max(${z}, 0);`,
  // Abramowitz and Stegun 7.1.26, good to 1.5e-7, as tfjs's own erf.
  gelu: (z, result) => `const a_${result} = Math.abs(${z}) * ${Math.SQRT1_2};
    const t_${result} = 1 / (1 + 0.3275911 * a_${result});
    let tail_${result} = -1.453152027 + t_${result} * 1.061405429;
    tail_${result} = 1.421413741 + t_${result} * tail_${result};
    tail_${result} = -0.284496736 + t_${result} * tail_${result};
    tail_${result} = 0.254829592 + t_${result} * tail_${result};
    tail_${result} = 0.5 * t_${result} * tail_${result} * Math.exp(Math.max(-a_${result} * a_${result}, -80));
    let ${result} = ${z} * tail_${result};
    if (${z} > 0) { ${result} = ${z} - ${result}; }`,
  gelu_tanh: (z, result) =>
    `const ${result} = ${z} / (1 + Math.exp(Math.min(${-2 * Math.sqrt(2 / Math.PI)} * (${z} + 0.044715 * ${z} * ${z} * ${z}), 80)));`,
  silu: (z, result) => `const ${result} = ${z} / (1 + Math.exp(Math.min(-${z}, 80)));`,
};
