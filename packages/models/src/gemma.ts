import { type Activation, attentionMask, linear, rmsNorm, rotaryTables } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Architecture, Batch, ForwardResult } from './architecture.js';
import { attention } from './attention.js';
import type { ConfigReader } from './config.js';
import { feedForward, type ForwardContext, projection, textBatch } from './forward.js';
import { embeddingSpec, linearSpec } from './parameters.js';
import { transformerSites } from './site.js';

/** Gemma with its language-model head (Gemma Team 2024), as transformers' `GemmaForCausalLM`. */
export function gemma(config: ConfigReader): Architecture {
  const dModel = config.count('hidden_size');
  const layers = config.count('num_hidden_layers');
  const heads = config.count('num_attention_heads');
  const kvHeads = config.count('num_key_value_heads', heads);
  const headDim = config.count('head_dim', 256);
  const hidden = config.count('intermediate_size');
  const vocabulary = config.count('vocab_size');
  const maxPositions = config.count('max_position_embeddings');
  const epsilon = config.positive('rms_norm_eps', 1e-6);
  const head = config.boolean('tie_word_embeddings', true)
    ? 'model.embed_tokens.weight'
    : 'lm_head.weight';
  config.divisible('num_attention_heads', heads, 'num_key_value_heads', kvHeads);
  if (headDim % 2 !== 0) throw config.invalid('head_dim', 'even');
  config.only('attention_bias', false);
  config.only('use_bidirectional_attention', false);
  const theta = ropeTheta(config);
  const widths = { dModel, layers, heads, kvHeads, headDim, hidden, gated: true };

  const name = (layer: number, part: string) => `model.layers.${layer}.${part}`;
  // Gemma's norms scale by 1 + weight, so that a fresh weight is 0.
  const normSpec = (at: string) => ({
    name: `${at}.weight`,
    shape: [dModel],
    init: 'zeros' as const,
  });
  const parameters = [
    embeddingSpec('model.embed_tokens', vocabulary, dModel),
    ...Array.from({ length: layers }, (_, l) => [
      normSpec(name(l, 'input_layernorm')),
      ...linearSpec(name(l, 'self_attn.q_proj'), dModel, heads * headDim, false),
      ...linearSpec(name(l, 'self_attn.k_proj'), dModel, kvHeads * headDim, false),
      ...linearSpec(name(l, 'self_attn.v_proj'), dModel, kvHeads * headDim, false),
      ...linearSpec(name(l, 'self_attn.o_proj'), heads * headDim, dModel, false),
      normSpec(name(l, 'post_attention_layernorm')),
      ...linearSpec(name(l, 'mlp.gate_proj'), dModel, hidden, false),
      ...linearSpec(name(l, 'mlp.up_proj'), dModel, hidden, false),
      ...linearSpec(name(l, 'mlp.down_proj'), hidden, dModel, false),
    ]).flat(),
    normSpec('model.norm'),
    ...(head === 'lm_head.weight' ? [embeddingSpec('lm_head', vocabulary, dModel)] : []),
  ];

  function forward(context: ForwardContext, input: Batch): ForwardResult {
    const { cache } = context.options;
    const { inputIds, attentionMask: padding, past } = textBatch(input, maxPositions, cache);
    const [batch, positions] = inputIds.shape;
    const norm = (x: tf.Tensor2D, at: string) =>
      rmsNorm(x, tf.add(context.vector(`${at}.weight`), 1), epsilon);
    const hiddenStates: tf.Tensor3D[] = [];
    const record = (x: tf.Tensor2D) => {
      if (context.options.hiddenStates) {
        hiddenStates.push(tf.reshape(x, [batch, positions, dModel]));
      }
    };

    const words = tf.gather(context.matrix('model.embed_tokens.weight'), inputIds);
    let x = tf.reshape<tf.Rank.R2>(tf.mul(words, Math.sqrt(dModel)), [batch * positions, dModel]);

    const mask = attentionMask({
      queries: positions,
      keys: past + positions,
      headDim,
      causal: true,
      padding,
    });
    const rotary = rotaryTables(past, positions, headDim, theta);
    for (let l = 0; l < layers; l++) {
      record(x);
      const a = norm(x, name(l, 'input_layernorm'));
      const q = projection(context, l, 'q', a, name(l, 'self_attn.q_proj'), false);
      const k = projection(context, l, 'k', a, name(l, 'self_attn.k_proj'), false);
      const v = projection(context, l, 'v', a, name(l, 'self_attn.v_proj'), false);
      const mixed = attention(q, k, v, {
        batch,
        heads,
        kvHeads,
        headDim,
        mask,
        rotary,
        cache: cache && { of: cache, layer: l },
      });
      x = tf.add(x, projection(context, l, 'o', mixed, name(l, 'self_attn.o_proj'), false));
      x = tf.add(x, feedForward(context, l, norm(x, name(l, 'post_attention_layernorm'))));
    }
    x = norm(x, 'model.norm');
    record(x);

    const logits = tf.reshape(linear(x, context.matrix(head)), [batch, positions, vocabulary]);
    return context.options.hiddenStates ? { logits, hiddenStates } : { logits };
  }

  return {
    modelType: 'gemma',
    task: 'text-generation',
    shape: {
      ...widths,
      outputs: vocabulary,
      outputPositions: 'all',
      pooler: false,
      patchInputs: 0,
      maxPositions,
    },
    activation: gemmaActivation(config),
    activationFields: ['hidden_act', 'hidden_activation'],
    prefix: 'model.',
    parameters,
    sites: transformerSites(widths),
    feedForward: (layer) => ({
      layout: 'linear',
      gate: name(layer, 'mlp.gate_proj.weight'),
      up: name(layer, 'mlp.up_proj.weight'),
      down: name(layer, 'mlp.down_proj.weight'),
    }),
    projection: (layer, role) => ({
      layout: 'linear',
      weight: name(layer, `self_attn.${role}_proj.weight`),
    }),
    forward,
  };
}

/** `rope_parameters.rope_theta` as transformers 5 writes it, or `rope_theta` as earlier versions did. */
function ropeTheta(config: ConfigReader): number {
  for (const field of ['rope_parameters', 'rope_scaling']) {
    const rope = config.object(field);
    rope?.only('rope_type', 'default');
    rope?.only('type', 'default');
    if (rope?.has('rope_theta')) return rope.positive('rope_theta');
  }
  return config.positive('rope_theta', 10000);
}

/**
 * `hidden_activation`, and where an older file lacks it `hidden_act`, except that "gelu" then means the tanh form:
 * the first checkpoints said "gelu" but were trained with the approximation, and transformers ran them so.
 */
function gemmaActivation(config: ConfigReader): Activation {
  if (config.has('hidden_activation')) return config.activation('hidden_activation');
  const activation = config.activation('hidden_act', 'gelu_pytorch_tanh');
  return activation === 'gelu' ? 'gelu_tanh' : activation;
}
