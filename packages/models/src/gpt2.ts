import { attentionMask, layerNorm, linear, packedAttention } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Architecture, Batch, ForwardResult } from './architecture.js';
import { attention, type AttentionOptions } from './attention.js';
import type { ConfigReader } from './config.js';
import {
  atProjection,
  feedForward,
  type ForwardContext,
  replacedProjection,
  textBatch,
} from './forward.js';
import { conv1dSpec, embeddingSpec, layerNormSpec } from './parameters.js';
import { transformerSites } from './site.js';

/** GPT-2 with its language-model head (Radford et al. 2019), as transformers' `GPT2LMHeadModel`. */
export function gpt2(config: ConfigReader): Architecture {
  const dModel = config.count('n_embd');
  const layers = config.count('n_layer');
  const heads = config.count('n_head');
  const hidden = config.count('n_inner', 4 * dModel);
  const vocabulary = config.count('vocab_size');
  const maxPositions = config.count('n_positions');
  const epsilon = config.positive('layer_norm_epsilon', 1e-5);
  const scaled = config.boolean('scale_attn_weights', true);
  const scaledByLayer = config.boolean('scale_attn_by_inverse_layer_idx', false);
  const head = config.boolean('tie_word_embeddings', true)
    ? 'transformer.wte.weight'
    : 'lm_head.weight';
  config.divisible('n_embd', dModel, 'n_head', heads);
  config.only('add_cross_attention', false);
  const headDim = dModel / heads;
  const widths = { dModel, layers, heads, kvHeads: heads, headDim, hidden, gated: false };

  const name = (layer: number, part: string) => `transformer.h.${layer}.${part}`;
  const parameters = [
    embeddingSpec('transformer.wte', vocabulary, dModel),
    embeddingSpec('transformer.wpe', maxPositions, dModel),
    ...Array.from({ length: layers }, (_, l) => [
      ...layerNormSpec(name(l, 'ln_1'), dModel),
      ...conv1dSpec(name(l, 'attn.c_attn'), dModel, 3 * dModel),
      ...conv1dSpec(name(l, 'attn.c_proj'), dModel, dModel),
      ...layerNormSpec(name(l, 'ln_2'), dModel),
      ...conv1dSpec(name(l, 'mlp.c_fc'), dModel, hidden),
      ...conv1dSpec(name(l, 'mlp.c_proj'), hidden, dModel),
    ]).flat(),
    ...layerNormSpec('transformer.ln_f', dModel),
    ...(head === 'lm_head.weight' ? [embeddingSpec('lm_head', vocabulary, dModel)] : []),
  ];

  /**
   * A layer's attention before its output projection: x [B·T, d] → [B·T, d]. q, k and v come from the one product that
   * they share, and are separated only where a tap reads them, one of them is substituted or replaced, or a cache takes
   * them.
   */
  function mix(
    context: ForwardContext,
    l: number,
    x: tf.Tensor2D,
    options: AttentionOptions & { scale: number },
  ): tf.Tensor2D {
    const weight = context.matrix(name(l, 'attn.c_attn.weight'));
    const bias = context.vector(name(l, 'attn.c_attn.bias'));
    const roles = ['q', 'k', 'v'] as const;
    const { tap } = context.options;
    const replaced = roles.map((role) => replacedProjection(context, context.site(l, role), x));
    const part = (i: number): [tf.Tensor2D, tf.Tensor1D] => [
      tf.slice2d(weight, [0, i * dModel], [dModel, dModel]),
      tf.slice1d(bias, i * dModel, dModel),
    ];
    if (replaced.some((values) => values !== undefined)) {
      const [q, k, v] = roles.map((role, i) => {
        const values = replaced[i] ?? {
          input: x,
          output: linear(x, ...part(i), { transposed: true }),
        };
        tap?.(context.site(l, role), values);
        return values.output;
      }) as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
      return attention(q, k, v, options);
    }
    const qkv = linear(x, weight, bias, { transposed: true });
    let parts: tf.Tensor2D[] | undefined;
    const separate = () => (parts ??= tf.split(qkv, 3, 1));
    for (const [i, role] of roles.entries()) {
      tap?.(context.site(l, role), {
        input: x,
        get output() {
          return separate()[i] as tf.Tensor2D;
        },
      });
    }
    if (options.cache === undefined && parts === undefined) return packedAttention(qkv, options);
    const [q, k, v] = separate() as [tf.Tensor2D, tf.Tensor2D, tf.Tensor2D];
    return attention(q, k, v, options);
  }

  function forward(context: ForwardContext, input: Batch): ForwardResult {
    const { cache } = context.options;
    const { inputIds, attentionMask: padding, past } = textBatch(input, maxPositions, cache);
    const [batch, positions] = inputIds.shape;
    const norm = (x: tf.Tensor2D, at: string) =>
      layerNorm(x, context.vector(`${at}.weight`), context.vector(`${at}.bias`), epsilon);
    const conv1d = (x: tf.Tensor2D, at: string) =>
      linear(x, context.matrix(`${at}.weight`), context.vector(`${at}.bias`), {
        transposed: true,
      });
    const hiddenStates: tf.Tensor3D[] = [];
    const record = (x: tf.Tensor2D) => {
      if (context.options.hiddenStates) {
        hiddenStates.push(tf.reshape(x, [batch, positions, dModel]));
      }
    };

    const words = tf.gather(context.matrix('transformer.wte.weight'), inputIds);
    const places = tf.slice2d(
      context.matrix('transformer.wpe.weight'),
      [past, 0],
      [positions, dModel],
    );
    let x = tf.reshape<tf.Rank.R2>(tf.add(words, places), [batch * positions, dModel]);

    const mask = attentionMask({
      queries: positions,
      keys: past + positions,
      headDim,
      causal: true,
      padding,
    });
    for (let l = 0; l < layers; l++) {
      record(x);
      const scale = (scaled ? 1 / Math.sqrt(headDim) : 1) / (scaledByLayer ? l + 1 : 1);
      const mixed = mix(context, l, norm(x, name(l, 'ln_1')), {
        batch,
        heads,
        kvHeads: heads,
        headDim,
        scale,
        mask,
        cache: cache && { of: cache, layer: l },
      });
      const o = atProjection(context, l, 'o', mixed, () => conv1d(mixed, name(l, 'attn.c_proj')));
      x = tf.add(x, o);
      x = tf.add(x, feedForward(context, l, norm(x, name(l, 'ln_2'))));
    }
    x = norm(x, 'transformer.ln_f');
    record(x);

    const logits = tf.reshape(linear(x, context.matrix(head)), [batch, positions, vocabulary]);
    return context.options.hiddenStates ? { logits, hiddenStates } : { logits };
  }

  return {
    modelType: 'gpt2',
    task: 'text-generation',
    shape: {
      ...widths,
      outputs: vocabulary,
      outputPositions: 'all',
      pooler: false,
      patchInputs: 0,
      maxPositions,
    },
    activation: config.activation('activation_function', 'gelu_new'),
    activationFields: ['activation_function'],
    prefix: 'transformer.',
    parameters,
    sites: transformerSites(widths),
    feedForward: (layer) => ({
      layout: 'conv1d',
      up: name(layer, 'mlp.c_fc.weight'),
      upBias: name(layer, 'mlp.c_fc.bias'),
      down: name(layer, 'mlp.c_proj.weight'),
      downBias: name(layer, 'mlp.c_proj.bias'),
    }),
    projection: (layer, role) => {
      const at = role === 'o' ? 'attn.c_proj' : 'attn.c_attn';
      return {
        layout: 'conv1d',
        weight: name(layer, `${at}.weight`),
        bias: name(layer, `${at}.bias`),
        offset: role === 'o' ? 0 : 'qkv'.indexOf(role) * dModel,
      };
    },
    forward,
  };
}
