import { addBias, multiply, transpose } from './matrix.js';
import { trainingBatch, trainingConfig } from './workload.js';

/** A GPT-2's tensors by name, float64. */
export type Parameters = ReadonlyMap<string, Float64Array>;

/**
 * The mean cross-entropy of the trained GPT-2 on its batch, in float64 and plain loops: what the peers' losses and
 * gradients are held to.
 */
export function gpt2Loss(parameters: Parameters): number {
  const { n_embd: d, n_layer: layers, n_head: heads, vocab_size: vocabulary } = trainingConfig;
  const { shape, ids, labels } = trainingBatch();
  const [, positions] = shape;
  const tokens = ids.length;
  const tensor = (name: string) => {
    const values = parameters.get(`transformer.${name}`);
    if (values === undefined) throw new Error(`The model has no tensor transformer.${name}.`);
    return values;
  };
  const linear = (x: Float64Array, name: string, dIn: number, dOut: number) =>
    addBias(multiply(x, tensor(`${name}.weight`), tokens, dIn, dOut), tensor(`${name}.bias`));
  const norm = (x: Float64Array, name: string) =>
    layerNorm(x, tensor(`${name}.weight`), tensor(`${name}.bias`));

  const wte = tensor('wte.weight');
  const wpe = tensor('wpe.weight');
  let x = new Float64Array(tokens * d).map((_, i) => {
    const token = Math.floor(i / d);
    const word = wte[(ids[token] as number) * d + (i % d)] as number;
    return word + (wpe[(token % positions) * d + (i % d)] as number);
  });
  for (let l = 0; l < layers; l++) {
    const qkv = linear(norm(x, `h.${l}.ln_1`), `h.${l}.attn.c_attn`, d, 3 * d);
    const mixed = attention(qkv, { positions, heads, d });
    x = add(x, linear(mixed, `h.${l}.attn.c_proj`, d, d));
    const hidden = linear(norm(x, `h.${l}.ln_2`), `h.${l}.mlp.c_fc`, d, 4 * d).map(geluTanh);
    x = add(x, linear(hidden, `h.${l}.mlp.c_proj`, 4 * d, d));
  }
  const logits = multiply(norm(x, 'ln_f'), transpose(wte, vocabulary, d), tokens, d, vocabulary);
  let sum = 0;
  for (let token = 0; token < tokens; token++) {
    const row = logits.subarray(token * vocabulary, (token + 1) * vocabulary);
    const greatest = row.reduce((a, b) => Math.max(a, b));
    const total = row.reduce((total, logit) => total + Math.exp(logit - greatest), 0);
    sum += greatest + Math.log(total) - (row[labels[token] as number] as number);
  }
  return sum / tokens;
}

function add(a: Float64Array, b: Float64Array): Float64Array<ArrayBuffer> {
  return new Float64Array(a.length).map((_, i) => (a[i] as number) + (b[i] as number));
}

function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function layerNorm(x: Float64Array, scale: Float64Array, shift: Float64Array): Float64Array {
  const d = scale.length;
  const output = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += d) {
    const row = x.subarray(start, start + d);
    const mean = row.reduce((sum, value) => sum + value, 0) / d;
    const variance = row.reduce((sum, value) => sum + (value - mean) ** 2, 0) / d;
    const inverse = 1 / Math.sqrt(variance + 1e-5);
    for (const [i, value] of row.entries()) {
      output[start + i] = (value - mean) * inverse * (scale[i] as number) + (shift[i] as number);
    }
  }
  return output;
}

/** Causal attention; qkv [tokens, 3·d], the heads of q, then of k, then of v. */
function attention(
  qkv: Float64Array,
  { positions, heads, d }: { positions: number; heads: number; d: number },
): Float64Array {
  const headDim = d / heads;
  const tokens = qkv.length / (3 * d);
  const output = new Float64Array(tokens * d);
  for (let token = 0; token < tokens; token++) {
    const first = token - (token % positions);
    for (let head = 0; head < heads; head++) {
      const q = token * 3 * d + head * headDim;
      const weights: number[] = [];
      for (let other = first; other <= token; other++) {
        const k = other * 3 * d + d + head * headDim;
        let score = 0;
        for (let i = 0; i < headDim; i++) {
          score += (qkv[q + i] as number) * (qkv[k + i] as number);
        }
        weights.push(Math.exp(score / Math.sqrt(headDim)));
      }
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      for (const [index, weight] of weights.entries()) {
        const v = (first + index) * 3 * d + 2 * d + head * headDim;
        for (let i = 0; i < headDim; i++) {
          const at = token * d + head * headDim + i;
          output[at] = (output[at] as number) + (weight / total) * (qkv[v + i] as number);
        }
      }
    }
  }
  return output;
}
