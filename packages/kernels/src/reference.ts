import { erfc } from './erf.js';
import { checkSelectionRule } from './selection-rule.js';
import type { Activation, SelectionRule } from './types.js';

/**
 * {@link PackedExperts} as plain float64 arrays, row-major, for the reference implementations.
 */
export interface ReferenceExperts {
  /** Width of the rows that the experts take. */
  dIn: number;
  /** Width of the rows that they give. */
  dOut: number;
  /** Number of experts. */
  experts: number;
  /** Neurons per expert; the hidden width is experts · expertSize. */
  expertSize: number;
  /** Of the hidden neurons; of the gate where there is one. */
  activation: Activation;
  /** [hidden, dIn] */
  up: Float64Array;
  /** [hidden] */
  upBias?: Float64Array;
  /** [hidden, dIn] */
  gate?: Float64Array;
  /** [hidden] */
  gateBias?: Float64Array;
  /** [hidden, dOut] */
  down: Float64Array;
  /** [dOut] */
  downBias?: Float64Array;
}

/** An activation in float64. */
export function referenceActivate(x: number, activation: Activation): number {
  return activations[activation](x);
}

const activations: Record<Activation, (x: number) => number> = {
  relu: (x) => Math.max(x, 0),
  gelu: (x) => 0.5 * x * erfc(-x * Math.SQRT1_2),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
  silu: (x) => x / (1 + Math.exp(-x)),
};

/**
 * `selectExperts` in float64: what every backend's SelectExperts kernel must give.
 *
 * @param predictedNorms [N, n]
 * @param experts n
 * @returns [N, n], 1 where the expert runs and 0 elsewhere.
 * @throws D2DMoEError `SELECTION_RULE_INVALID`
 */
export function referenceSelectExperts(
  predictedNorms: Float64Array,
  experts: number,
  rule: SelectionRule,
): Uint8Array {
  checkSelectionRule(rule);
  const selection = new Uint8Array(predictedNorms.length);
  for (let start = 0; start < selection.length; start += experts) {
    const norms = predictedNorms.subarray(start, start + experts);
    for (const expert of selectForToken(norms, rule)) selection[start + expert] = 1;
  }
  return selection;
}

function selectForToken(norms: Float64Array, { rule, value }: SelectionRule): number[] {
  const norm = (expert: number) => norms[expert] as number;
  // Most important first; the sort is stable, so ties stay in order of their numbers.
  const ranked = Array.from(norms.keys()).sort((a, b) => norm(b) - norm(a));
  if (rule === 'threshold') {
    const greatest = norm(ranked[0] as number);
    if (value === 0) return ranked;
    if (greatest <= 0) return [0];
    return ranked.filter((expert) => norm(expert) >= value * greatest);
  }
  if (rule === 'topK') return ranked.slice(0, value);
  // cumulativeShare
  const total = ranked.reduce((sum, expert) => sum + norm(expert), 0);
  let sum = 0;
  let count = 0;
  do {
    sum += norm(ranked[count] as number);
    count++;
  } while (sum < value * total);
  return ranked.slice(0, count);
}

/**
 * `hiddenActivations` in float64.
 *
 * @param x [N, dIn]
 * @returns [N, hidden]
 */
export function referenceHiddenActivations(x: Float64Array, ffn: ReferenceExperts): Float64Array {
  const { dIn, up, upBias, gate, gateBias, activation } = ffn;
  const hidden = ffn.experts * ffn.expertSize;
  const rows = x.length / dIn;
  const output = new Float64Array(rows * hidden);
  for (let row = 0; row < rows; row++) {
    for (let neuron = 0; neuron < hidden; neuron++) {
      let projected = upBias?.[neuron] ?? 0;
      let gated = gateBias?.[neuron] ?? 0;
      for (let i = 0; i < dIn; i++) {
        const input = x[row * dIn + i] as number;
        projected += (up[neuron * dIn + i] as number) * input;
        if (gate) gated += (gate[neuron * dIn + i] as number) * input;
      }
      output[row * hidden + neuron] = gate
        ? referenceActivate(gated, activation) * projected
        : referenceActivate(projected, activation);
    }
  }
  return output;
}

/**
 * Each expert's own output downᵢᵀ·hiddenᵢ in float64, downBias left out.
 *
 * @param hidden [N, hidden]
 * @returns [N, n, dOut]
 */
export function referenceExpertOutputs(hidden: Float64Array, ffn: ReferenceExperts): Float64Array {
  const { dOut, experts, expertSize, down } = ffn;
  const rows = hidden.length / (experts * expertSize);
  const outputs = new Float64Array(rows * experts * dOut);
  for (let row = 0; row < rows; row++) {
    for (let expert = 0; expert < experts; expert++) {
      for (let j = 0; j < expertSize; j++) {
        const neuron = expert * expertSize + j;
        const activation = hidden[row * experts * expertSize + neuron] as number;
        for (let o = 0; o < dOut; o++) {
          const at = (row * experts + expert) * dOut + o;
          outputs[at] = (outputs[at] as number) + activation * (down[neuron * dOut + o] as number);
        }
      }
    }
  }
  return outputs;
}

/**
 * `dynamicKExperts` in float64: what every backend's DynamicKExperts kernel must give, up to its own rounding.
 *
 * @param x [N, dIn]
 * @param selection [N, n], 0 or 1.
 * @returns [N, dOut]
 */
export function referenceDynamicKExperts(
  x: Float64Array,
  selection: Uint8Array,
  ffn: ReferenceExperts,
): Float64Array {
  const { dIn, dOut, experts, downBias } = ffn;
  const rows = x.length / dIn;
  const expertOutputs = referenceExpertOutputs(referenceHiddenActivations(x, ffn), ffn);
  const output = new Float64Array(rows * dOut);
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < dOut; o++) {
      let sum = downBias?.[o] ?? 0;
      for (let expert = 0; expert < experts; expert++) {
        if (selection[row * experts + expert]) {
          sum += expertOutputs[(row * experts + expert) * dOut + o] as number;
        }
      }
      output[row * dOut + o] = sum;
    }
  }
  return output;
}

/**
 * `contributionNorms` in float64: ‖downᵢᵀ·hiddenᵢ‖.
 *
 * @param hidden [N, hidden]
 * @returns [N, n]
 */
export function referenceContributionNorms(
  hidden: Float64Array,
  ffn: ReferenceExperts,
): Float64Array {
  const { dOut } = ffn;
  const outputs = referenceExpertOutputs(hidden, ffn);
  return Float64Array.from({ length: outputs.length / dOut }, (_, i) =>
    Math.hypot(...outputs.subarray(i * dOut, (i + 1) * dOut)),
  );
}
