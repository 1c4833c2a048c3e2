import { attentionMask, layerNorm } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Architecture, Batch, ForwardResult } from './architecture.js';
import { attention } from './attention.js';
import type { ConfigReader } from './config.js';
import {
  dense,
  feedForward,
  firstPosition,
  type ForwardContext,
  projection,
  textBatch,
} from './forward.js';
import { embeddingSpec, layerNormSpec, linearSpec } from './parameters.js';
import { transformerSites } from './site.js';

/** The projections' names inside a layer's attention. */
const projections = {
  q: 'self.query',
  k: 'self.key',
  v: 'self.value',
  o: 'output.dense',
} as const;

/**
 * BERT with a classifier on its pooled first token (Devlin et al. 2019), as transformers'
 * `BertForSequenceClassification`.
 */
export function bert(config: ConfigReader): Architecture {
  const dModel = config.count('hidden_size');
  const layers = config.count('num_hidden_layers');
  const heads = config.count('num_attention_heads');
  const hidden = config.count('intermediate_size');
  const vocabulary = config.count('vocab_size');
  const maxPositions = config.count('max_position_embeddings');
  const segments = config.count('type_vocab_size', 2);
  const epsilon = config.positive('layer_norm_eps', 1e-12);
  const labels = config.labels();
  config.divisible('hidden_size', dModel, 'num_attention_heads', heads);
  config.only('is_decoder', false);
  config.only('add_cross_attention', false);
  config.only('position_embedding_type', 'absolute');
  const headDim = dModel / heads;
  const classes = labels.length;
  const widths = { dModel, layers, heads, kvHeads: heads, headDim, hidden, gated: false };

  const name = (layer: number, part: string) => `bert.encoder.layer.${layer}.${part}`;
  const parameters = [
    embeddingSpec('bert.embeddings.word_embeddings', vocabulary, dModel),
    embeddingSpec('bert.embeddings.position_embeddings', maxPositions, dModel),
    embeddingSpec('bert.embeddings.token_type_embeddings', segments, dModel),
    ...layerNormSpec('bert.embeddings.LayerNorm', dModel),
    ...Array.from({ length: layers }, (_, l) => [
      ...linearSpec(name(l, 'attention.self.query'), dModel, dModel),
      ...linearSpec(name(l, 'attention.self.key'), dModel, dModel),
      ...linearSpec(name(l, 'attention.self.value'), dModel, dModel),
      ...linearSpec(name(l, 'attention.output.dense'), dModel, dModel),
      ...layerNormSpec(name(l, 'attention.output.LayerNorm'), dModel),
      ...linearSpec(name(l, 'intermediate.dense'), dModel, hidden),
      ...linearSpec(name(l, 'output.dense'), hidden, dModel),
      ...layerNormSpec(name(l, 'output.LayerNorm'), dModel),
    ]).flat(),
    ...linearSpec('bert.pooler.dense', dModel, dModel),
    ...linearSpec('classifier', dModel, classes),
  ];

  function forward(context: ForwardContext, input: Batch): ForwardResult {
    const { inputIds, attentionMask: padding, tokenTypeIds } = textBatch(input, maxPositions);
    const [batch, positions] = inputIds.shape;
    const norm = (x: tf.Tensor2D, at: string) =>
      layerNorm(x, context.vector(`${at}.weight`), context.vector(`${at}.bias`), epsilon);
    const hiddenStates: tf.Tensor3D[] = [];
    const record = (x: tf.Tensor2D) => {
      if (context.options.hiddenStates) {
        hiddenStates.push(tf.reshape(x, [batch, positions, dModel]));
      }
    };
    const table = (which: string) => context.matrix(`bert.embeddings.${which}_embeddings.weight`);

    const words = tf.gather(table('word'), inputIds) as unknown as tf.Tensor3D;
    const places = tf.slice2d(table('position'), [0, 0], [positions, dModel]);
    const segment =
      tokenTypeIds === undefined
        ? tf.slice2d(table('token_type'), [0, 0], [1, dModel])
        : tf.gather(table('token_type'), tokenTypeIds);
    const embedded = tf.add(tf.add(words, places), segment);
    let x = norm(tf.reshape(embedded, [batch * positions, dModel]), 'bert.embeddings.LayerNorm');
    record(x);

    const mask = attentionMask({
      queries: positions,
      keys: positions,
      headDim,
      causal: false,
      padding,
    });
    for (let l = 0; l < layers; l++) {
      const q = projection(context, l, 'q', x, name(l, 'attention.self.query'));
      const k = projection(context, l, 'k', x, name(l, 'attention.self.key'));
      const v = projection(context, l, 'v', x, name(l, 'attention.self.value'));
      const mixed = attention(q, k, v, { batch, heads, kvHeads: heads, headDim, mask });
      const o = projection(context, l, 'o', mixed, name(l, 'attention.output.dense'));
      x = norm(tf.add(x, o), name(l, 'attention.output.LayerNorm'));
      x = norm(tf.add(x, feedForward(context, l, x)), name(l, 'output.LayerNorm'));
      record(x);
    }

    const pooled = tf.tanh(dense(context, firstPosition(x, batch), 'bert.pooler.dense'));
    const logits = dense(context, pooled, 'classifier');
    return context.options.hiddenStates ? { logits, hiddenStates } : { logits };
  }

  return {
    modelType: 'bert',
    task: 'text-classification',
    shape: {
      ...widths,
      outputs: classes,
      outputPositions: 'first',
      pooler: true,
      patchInputs: 0,
      maxPositions,
    },
    labels,
    activation: config.activation('hidden_act', 'gelu'),
    activationFields: ['hidden_act'],
    prefix: 'bert.',
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
      bias: name(layer, `attention.${projections[role]}.bias`),
    }),
    forward,
  };
}
