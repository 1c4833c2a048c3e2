import { activationSource, hiddenWeights, outputWeights, type HiddenVariant } from './sources.js';

const lanes = [0, 1, 2, 3];

/**
 * The hidden activations of the selected experts on textures, as the text of a gpu.js kernel. A cell is four adjacent
 * neurons, x, of expert y of token z: four values come with a fetch, so it makes 5 fetches where one for each value
 * would make 32. A cell whose expert is not selected makes no step of its loop.
 *
 * Arguments, four values a texel but for the selection: x [N][dIn / 4], selection [N][n], up and gate
 * [n][dIn][expertSize / 4], upBias and gateBias [n][expertSize / 4]. Constant: inputQuads. Output:
 * [N][n][expertSize / 4], four values a texel.
 */
export function textureHiddenSource(variant: HiddenVariant): string {
  const { activation, gated } = variant;
  const step = (sum: string, weights: string) => `
      const ${weights}_0 = ${weights}[expert][4 * i][quad];
      const ${weights}_1 = ${weights}[expert][4 * i + 1][quad];
      const ${weights}_2 = ${weights}[expert][4 * i + 2][quad];
      const ${weights}_3 = ${weights}[expert][4 * i + 3][quad];
      ${sums(sum, 'input', weights)}`;
  const start = (sum: string, bias: string) => `const start_${sum} = ${bias}[expert][quad];
    ${each((lane) => `let ${sum}_${lane} = start_${sum}[${lane}];`)}`;
  return `function (${['x', 'selection', ...hiddenWeights(variant)].join(', ')}) {
    const quad = this.thread.x;
    const expert = this.thread.y;
    const token = this.thread.z;
    let steps = 0;
    if (selection[token][expert] > 0.5) { steps = this.constants.inputQuads; }
    ${start('projected', 'upBias')}
    ${gated ? start('gated', 'gateBias') : ''}
    for (let i = 0; i < steps; i++) {
      const input = x[token][i];
      ${step('projected', 'up')}
      ${gated ? step('gated', 'gate') : ''}
    }
    ${each((lane) => `let hidden_${lane} = 0;`)}
    if (steps > 0) {
      ${each((lane) => activationSource(activation, `${gated ? 'gated' : 'projected'}_${lane}`, `activated_${lane}`))}
      ${each((lane) => `hidden_${lane} = activated_${lane}${gated ? ` * projected_${lane}` : ''};`)}
    }
    return [hidden_0, hidden_1, hidden_2, hidden_3];
  }`;
}

/**
 * The sum of the selected experts' outputs and downBias on textures, as the text of a gpu.js kernel. A cell is four
 * adjacent outputs, x, of token y, and goes over the neurons of selected experts only.
 *
 * Arguments, four values a texel but for the selection: hidden [N][n][expertSize / 4], selection [N][n], down
 * [n][expertSize][dOut / 4], downBias [dOut / 4]. Constants: experts, neuronQuads. Output: [N][dOut / 4], four values a
 * texel.
 */
export const textureOutputSource = `function (${['hidden', 'selection', ...outputWeights].join(', ')}) {
  const quad = this.thread.x;
  const token = this.thread.y;
  const start = downBias[quad];
  ${each((lane) => `let sum_${lane} = start[${lane}];`)}
  for (let expert = 0; expert < this.constants.experts; expert++) {
    let steps = 0;
    if (selection[token][expert] > 0.5) { steps = this.constants.neuronQuads; }
    for (let i = 0; i < steps; i++) {
      const input = hidden[token][expert][i];
      ${each((lane) => `const down_${lane} = down[expert][4 * i + ${lane}][quad];`)}
      ${sums('sum', 'input', 'down')}
    }
  }
  return [sum_0, sum_1, sum_2, sum_3];
}`;

/** Adds to each of four sums the products of four inputs with as many weights. */
function sums(sum: string, input: string, weights: string): string {
  return each((lane) => {
    const products = lanes.map((i) => `${input}[${i}] * ${weights}_${i}[${lane}]`);
    return `${sum}_${lane} += ${products.join(' + ')};`;
  });
}

function each(statement: (lane: number) => string): string {
  return lanes.map(statement).join('\n');
}
