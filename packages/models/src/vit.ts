import { layerNorm } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Architecture, Batch, ForwardResult } from './architecture.js';
import { attention } from './attention.js';
import type { ConfigReader } from './config.js';
import {
  dense,
  feedForward,
  firstPosition,
  type ForwardContext,
  imageBatch,
  projection,
} from './forward.js';
import { layerNormSpec, linearSpec } from './parameters.js';
import { transformerSites } from './site.js';

/** The projections' names inside a layer's attention. */
const projections = {
  q: 'attention.query',
  k: 'attention.key',
  v: 'attention.value',
  o: 'output.dense',
} as const;

/**
 * Vision Transformer with a classifier on its class token (Dosovitskiy et al. 2021), as transformers'
 * `ViTForImageClassification`.
 */
export function vit(config: ConfigReader): Architecture {
  const dModel = config.count('hidden_size');
  const layers = config.count('num_hidden_layers');
  const heads = config.count('num_attention_heads');
  const hidden = config.count('intermediate_size');
  const imageSize = config.count('image_size');
  const patch = config.count('patch_size');
  const channels = config.count('num_channels', 3);
  const qkvBias = config.boolean('qkv_bias', true);
  const epsilon = config.positive('layer_norm_eps', 1e-12);
  const labels = config.labels();
  config.divisible('hidden_size', dModel, 'num_attention_heads', heads);
  config.divisible('image_size', imageSize, 'patch_size', patch);
  const headDim = dModel / heads;
  const grid = imageSize / patch;
  const patchInputs = channels * patch * patch;
  const positions = grid * grid + 1;
  const classes = labels.length;
  const widths = { dModel, layers, heads, kvHeads: heads, headDim, hidden, gated: false };

  const name = (layer: number, part: string) => `vit.encoder.layer.${layer}.${part}`;
  const embedding = 'vit.embeddings.patch_embeddings.projection';
  const parameters = [
    { name: 'vit.embeddings.cls_token', shape: [1, 1, dModel], init: 'normal' as const },
    {
      name: 'vit.embeddings.position_embeddings',
      shape: [1, positions, dModel],
      init: 'normal' as const,
    },
    {
      name: `${embedding}.weight`,
      shape: [dModel, channels, patch, patch],
      init: 'normal' as const,
    },
    { name: `${embedding}.bias`, shape: [dModel], init: 'zeros' as const },
    ...Array.from({ length: layers }, (_, l) => [
      ...layerNormSpec(name(l, 'layernorm_before'), dModel),
      ...linearSpec(name(l, 'attention.attention.query'), dModel, dModel, qkvBias),
      ...linearSpec(name(l, 'attention.attention.key'), dModel, dModel, qkvBias),
      ...linearSpec(name(l, 'attention.attention.value'), dModel, dModel, qkvBias),
      ...linearSpec(name(l, 'attention.output.dense'), dModel, dModel),
      ...layerNormSpec(name(l, 'layernorm_after'), dModel),
      ...linearSpec(name(l, 'intermediate.dense'), dModel, hidden),
      ...linearSpec(name(l, 'output.dense'), hidden, dModel),
    ]).flat(),
    ...layerNormSpec('vit.layernorm', dModel),
    ...linearSpec('classifier', dModel, classes),
  ];

  /** Cuts [B, C, H, W] into patches, [B·grid², C·patch²], each in the order of the embedding's weight. */
  function unfold(pixels: tf.Tensor4D, batch: number): tf.Tensor2D {
    const blocks = tf.transpose(
      tf.reshape(pixels, [batch * channels * grid, patch, grid, patch]),
      [0, 2, 1, 3],
    );
    const patches = tf.transpose(
      tf.reshape(blocks, [batch, channels, grid * grid, patch * patch]),
      [0, 2, 1, 3],
    );
    return tf.reshape(patches, [batch * grid * grid, patchInputs]);
  }

  function forward(context: ForwardContext, input: Batch): ForwardResult {
    const { pixelValues } = imageBatch(input, channels, imageSize);
    const batch = pixelValues.shape[0];
    const norm = (x: tf.Tensor2D, at: string) =>
      layerNorm(x, context.vector(`${at}.weight`), context.vector(`${at}.bias`), epsilon);
    const hiddenStates: tf.Tensor3D[] = [];
    const record = (x: tf.Tensor2D) => {
      if (context.options.hiddenStates) {
        hiddenStates.push(tf.reshape(x, [batch, positions, dModel]));
      }
    };

    const kernel = tf.reshape<tf.Rank.R2>(context.tensor(`${embedding}.weight`), [
      dModel,
      patchInputs,
    ]);
    const patches = tf.add(
      tf.matMul(unfold(pixelValues, batch), kernel, false, true),
      context.vector(`${embedding}.bias`),
    );
    const classToken = tf.add(
      tf.zeros([batch, 1, dModel]),
      context.tensor('vit.embeddings.cls_token'),
    );
    const tokens = tf.concat([classToken, tf.reshape(patches, [batch, grid * grid, dModel])], 1);
    const embedded = tf.add(tokens, context.tensor('vit.embeddings.position_embeddings'));
    let x = tf.reshape<tf.Rank.R2>(embedded, [batch * positions, dModel]);
    record(x);

    for (let l = 0; l < layers; l++) {
      const a = norm(x, name(l, 'layernorm_before'));
      const q = projection(context, l, 'q', a, name(l, 'attention.attention.query'), qkvBias);
      const k = projection(context, l, 'k', a, name(l, 'attention.attention.key'), qkvBias);
      const v = projection(context, l, 'v', a, name(l, 'attention.attention.value'), qkvBias);
      const mixed = attention(q, k, v, { batch, heads, kvHeads: heads, headDim });
      x = tf.add(x, projection(context, l, 'o', mixed, name(l, 'attention.output.dense')));
      x = tf.add(x, feedForward(context, l, norm(x, name(l, 'layernorm_after'))));
      record(x);
    }

    const first = norm(firstPosition(x, batch), 'vit.layernorm');
    const logits = dense(context, first, 'classifier');
    return context.options.hiddenStates ? { logits, hiddenStates } : { logits };
  }

  return {
    modelType: 'vit',
    task: 'image-classification',
    shape: {
      ...widths,
      outputs: classes,
      outputPositions: 'first',
      pooler: false,
      patchInputs,
      maxPositions: positions,
    },
    labels,
    activation: config.activation('hidden_act', 'gelu'),
    activationFields: ['hidden_act'],
    prefix: 'vit.',
    parameters,
    sites: transformerSites(widths),
    feedForward: (layer) => ({
      layout: 'linear',
      up: name(layer, 'intermediate.dense.weight'),
      upBias: name(layer, 'intermediate.dense.bias'),
      down: name(layer, 'output.dense.weight'),
      downBias: name(layer, 'output.dense.bias'),
    }),
    projection: (layer, role) => ({
      layout: 'linear',
      weight: name(layer, `attention.${projections[role]}.weight`),
      ...((role === 'o' || qkvBias) && {
        bias: name(layer, `attention.${projections[role]}.bias`),
      }),
    }),
    forward,
  };
}
