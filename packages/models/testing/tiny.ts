import { Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { type Batch, initModel, type Model, type ModelType } from '../src/index.js';

/** A config.json of each architecture, as small as can be, with smooth activations. */
export const tinyConfigs: Record<ModelType, Record<string, unknown>> = {
  vit: {
    model_type: 'vit',
    hidden_size: 8,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 12,
    image_size: 4,
    patch_size: 2,
    num_channels: 3,
    hidden_act: 'gelu',
    id2label: { 0: 'cat', 1: 'dog', 2: 'owl' },
    initializer_range: 0.3,
  },
  bert: {
    model_type: 'bert',
    hidden_size: 8,
    num_hidden_layers: 2,
    num_attention_heads: 2,
    intermediate_size: 12,
    vocab_size: 11,
    max_position_embeddings: 6,
    type_vocab_size: 2,
    hidden_act: 'gelu',
    id2label: { 0: 'sad', 1: 'glad' },
    initializer_range: 0.3,
  },
  gpt2: {
    model_type: 'gpt2',
    n_embd: 8,
    n_layer: 2,
    n_head: 2,
    n_inner: 12,
    vocab_size: 11,
    n_positions: 6,
    activation_function: 'gelu_new',
    initializer_range: 0.3,
  },
  gemma: {
    model_type: 'gemma',
    hidden_size: 8,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 6,
    intermediate_size: 12,
    vocab_size: 11,
    max_position_embeddings: 6,
    hidden_activation: 'gelu_pytorch_tanh',
    initializer_range: 0.3,
  },
};

export const modelTypes = Object.keys(tinyConfigs) as ModelType[];

/** A tiny model whose every parameter, biases and norms too, differs from its usual start. */
export function tinyModel(modelType: ModelType, extra: Record<string, unknown> = {}): Model {
  const model = initModel({ ...tinyConfigs[modelType], ...extra }, new Random(1));
  const random = new Random(2);
  for (const variable of model.params.values()) {
    const noise = Float32Array.from({ length: variable.size }, () => 0.1 * random.normal());
    tf.tidy(() => variable.assign(tf.add(variable, tf.tensor(noise, variable.shape))));
  }
  return model;
}

/** Two inputs for a tiny model: padded and with segments for BERT. The caller disposes the tensors. */
export function tinyBatch(modelType: ModelType): Batch {
  const random = new Random(3);
  if (modelType === 'vit') {
    const pixels = Float32Array.from({ length: 2 * 3 * 16 }, () => random.normal());
    return { pixelValues: tf.tensor4d(pixels, [2, 3, 4, 4]) };
  }
  const ids = Array.from({ length: 10 }, () => random.integer(11));
  const inputIds = tf.tensor2d(ids, [2, 5], 'int32');
  if (modelType !== 'bert') return { inputIds };
  return {
    inputIds,
    attentionMask: tf.tensor2d([1, 1, 1, 1, 1, 1, 1, 1, 0, 0], [2, 5], 'int32'),
    tokenTypeIds: tf.tensor2d([0, 0, 1, 1, 1, 0, 1, 1, 0, 0], [2, 5], 'int32'),
  };
}

/** The logits of a tiny model, read back. */
export function logitsOf(
  model: Model,
  options: Parameters<Model['forward']>[1] = {},
): Float32Array {
  return tf.tidy(() => {
    const { logits } = model.forward(tinyBatch(model.modelType), options);
    return logits.dataSync<'float32'>();
  });
}

/** The largest absolute difference of two arrays. */
export function maxDifference(a: Float32Array, b: Float32Array): number {
  if (a.length !== b.length) return Infinity;
  return a.reduce((max, value, i) => Math.max(max, Math.abs(value - (b[i] ?? NaN))), 0);
}
