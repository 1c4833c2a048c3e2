import { Random } from '@d2dmoe/core';
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { refusal } from '../testing/refusal.js';
import { logitsOf, modelTypes, tinyConfigs, tinyModel } from '../testing/tiny.js';
import { createModel, initModel, type StoredTensor } from './create.js';
import type { Model } from './model.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

/** The tensors of a model, as a checkpoint would give them. */
function storedTensors(model: Model): Map<string, StoredTensor> {
  return new Map(
    Array.from(model.params, ([name, variable]) => [
      name,
      { shape: variable.shape, data: variable.dataSync<'float32'>() },
    ]),
  );
}

function renamed(tensors: Map<string, StoredTensor>, rename: (name: string) => string) {
  return new Map(Array.from(tensors, ([name, tensor]) => [rename(name), tensor]));
}

describe('names', () => {
  const prefixes = { vit: 'vit.', bert: 'bert.', gpt2: 'transformer.', gemma: 'model.' };

  test.each(modelTypes)(
    '%s: tensors without the base prefix are found and keep their names',
    (type) => {
      const original = tinyModel(type);
      const tensors = renamed(storedTensors(original), (name) =>
        name.startsWith(prefixes[type]) ? name.slice(prefixes[type].length) : name,
      );
      const model = createModel(tinyConfigs[type], (name) => tensors.get(name));
      expect([...model.params.keys()].sort()).toEqual([...tensors.keys()].sort());
      expect(logitsOf(model)).toEqual(logitsOf(original));
      original.dispose();
      model.dispose();
    },
  );

  test('BERT: gamma and beta of the first checkpoints are found', () => {
    const original = tinyModel('bert');
    const tensors = renamed(storedTensors(original), (name) =>
      name
        .replace('LayerNorm.weight', 'LayerNorm.gamma')
        .replace('LayerNorm.bias', 'LayerNorm.beta'),
    );
    const model = createModel(tinyConfigs.bert, (name) => tensors.get(name));
    expect(model.params.has('bert.embeddings.LayerNorm.gamma')).toBe(true);
    expect(logitsOf(model)).toEqual(logitsOf(original));
    original.dispose();
    model.dispose();
  });

  test('buffers and the copy of a tied head are left alone', () => {
    const original = tinyModel('gpt2');
    const tensors = storedTensors(original);
    const junk = { shape: [1, 1, 6, 6], data: new Float32Array(36).fill(NaN) };
    tensors.set('transformer.h.0.attn.bias', junk);
    tensors.set('transformer.h.0.attn.masked_bias', { shape: [], data: Float32Array.of(-1e4) });
    tensors.set('lm_head.weight', { shape: [11, 8], data: new Float32Array(88).fill(NaN) });
    const model = createModel(tinyConfigs.gpt2, (name) => tensors.get(name));
    expect(logitsOf(model)).toEqual(logitsOf(original));
    expect([...model.params.keys()]).toEqual([...original.params.keys()]);
    original.dispose();
    model.dispose();
  });

  test.each(['gpt2', 'gemma'] as const)('%s: an untied head is used', (type) => {
    const config = { ...tinyConfigs[type], tie_word_embeddings: false };
    const model = initModel(config, new Random(1));
    const before = logitsOf(model);
    const head = model.params.get('lm_head.weight') as tf.Variable;
    tf.tidy(() => head.assign(tf.mul(head, 2)));
    expect(logitsOf(model)).toEqual(before.map((x) => 2 * x));
    model.dispose();
  });
});

describe('config.json spellings', () => {
  const change = (type: keyof typeof tinyConfigs, fields: Record<string, unknown>) => {
    const base = tinyModel(type);
    const tensors = storedTensors(base);
    base.dispose();
    return createModel({ ...tinyConfigs[type], ...fields }, (name) => tensors.get(name));
  };
  const sameLogits = (a: Model, b: Model) => {
    const equal = logitsOf(a).every((x, i) => x === logitsOf(b)[i]);
    a.dispose();
    b.dispose();
    return equal;
  };

  test('rope_theta is read from both places', () => {
    const older = () => change('gemma', { rope_theta: 50 });
    const newer = () =>
      change('gemma', { rope_parameters: { rope_theta: 50, rope_type: 'default' } });
    const scaling = { rope_type: 'linear', factor: 2 };
    expect(sameLogits(older(), newer())).toBe(true);
    expect(sameLogits(older(), change('gemma', {}))).toBe(false);
    expect(() => change('gemma', { rope_scaling: scaling })).toThrow(/rope_scaling.rope_type/);
  });

  test.each([
    ['bert', { hidden_act: 'gelu' }, 'gelu'],
    ['bert', { hidden_act: null }, 'gelu'],
    ['vit', { hidden_act: 'swish' }, 'silu'],
    ['vit', { hidden_act: 'silu' }, 'silu'],
    ['gpt2', { activation_function: undefined }, 'gelu_tanh'],
    ['gpt2', { activation_function: 'gelu_pytorch_tanh' }, 'gelu_tanh'],
    ['gpt2', { activation_function: 'relu' }, 'relu'],
    ['gemma', { hidden_activation: undefined }, 'gelu_tanh'],
    ['gemma', { hidden_activation: null, hidden_act: 'gelu' }, 'gelu_tanh'],
    ['gemma', { hidden_activation: null, hidden_act: 'relu' }, 'relu'],
    ['gemma', { hidden_activation: 'gelu', hidden_act: 'relu' }, 'gelu'],
  ] as const)('%s with %j has the activation %s', (type, fields, activation) => {
    const model = change(type, fields);
    expect(model.activation).toBe(activation);
    model.dispose();
  });

  test('n_inner null means 4 · n_embd', () => {
    const model = initModel({ ...tinyConfigs.gpt2, n_inner: null }, new Random(1));
    expect(model.shape.hidden).toBe(32);
    model.dispose();
  });

  test('GPT-2 scales its scores as the config says', () => {
    const unscaled = () => change('gpt2', { scale_attn_weights: false });
    const byLayer = () => change('gpt2', { scale_attn_by_inverse_layer_idx: true });
    expect(sameLogits(unscaled(), change('gpt2', {}))).toBe(false);
    expect(sameLogits(byLayer(), change('gpt2', {}))).toBe(false);
  });

  test('ViT without qkv biases has none', () => {
    const model = initModel({ ...tinyConfigs.vit, qkv_bias: false }, new Random(1));
    expect([...model.params.keys()].filter((name) => /(query|key|value)\.bias/.test(name))).toEqual(
      [],
    );
    expect(logitsOf(model)).toHaveLength(6);
    model.dispose();
  });

  test('labels come from id2label; without it there are two, as in transformers', () => {
    const named = initModel(tinyConfigs.vit, new Random(1));
    expect(named.labels).toEqual(['cat', 'dog', 'owl']);
    const unnamed = initModel({ ...tinyConfigs.bert, id2label: undefined }, new Random(1));
    expect(unnamed.labels).toEqual(['LABEL_0', 'LABEL_1']);
    const counted = initModel(
      { ...tinyConfigs.bert, id2label: undefined, num_labels: 5 },
      new Random(1),
    );
    expect(counted.shape.outputs).toBe(5);
    const language = initModel(tinyConfigs.gpt2, new Random(1));
    expect(language.labels).toBeUndefined();
    for (const model of [named, unnamed, counted, language]) model.dispose();
  });

  test('the config is kept whole and apart from the one given', () => {
    const given: Record<string, unknown> = { ...tinyConfigs.bert, other: { nested: [1, null] } };
    const model = initModel(given, new Random(1));
    expect(model.config).toEqual(given);
    model.relufy();
    expect(given['hidden_act']).toBe('gelu');
    model.dispose();
  });
});

describe('bad input', () => {
  const load = (config: Record<string, unknown>) => () => initModel(config, new Random(1));

  test('an unsupported model_type names the supported ones', () => {
    const message = /"llama" is not supported; supported are vit, bert, gpt2, gemma\.$/;
    expect(load({ model_type: 'llama' })).toThrow(refusal('MODEL_TYPE_UNSUPPORTED', message));
    expect(load({ model_type: 'toString' })).toThrow(
      refusal('MODEL_TYPE_UNSUPPORTED', /supported are/),
    );
    expect(load({})).toThrow(
      refusal('CONFIG_INVALID', /field "model_type" is missing, but must be a string/),
    );
  });

  test.each([
    [
      'bert',
      { hidden_size: '8' },
      /"hidden_size" is "8" \(a string\), but must be a positive integer/,
    ],
    [
      'bert',
      { hidden_size: null },
      /"hidden_size" is null \(null\), but must be a positive integer/,
    ],
    ['bert', { num_attention_heads: 0 }, /"num_attention_heads" is 0/],
    [
      'bert',
      { num_attention_heads: 3 },
      /"hidden_size" is 8 .*multiple of "num_attention_heads" \(3\)/,
    ],
    [
      'bert',
      { layer_norm_eps: [1] },
      /"layer_norm_eps" is \[1\] \(an array\).* number greater than 0/,
    ],
    ['bert', { hidden_act: 'gelu_10' }, /"hidden_act" is "gelu_10" .* one of relu, gelu,/],
    ['bert', { id2label: { 1: 'a', 2: 'b' } }, /"id2label" .* class numbers 0, 1/],
    ['bert', { id2label: ['a'] }, /"id2label" .* must be an object/],
    ['bert', { is_decoder: true }, /"is_decoder" is true .* must be false/],
    ['bert', { position_embedding_type: 'relative_key' }, /"position_embedding_type"/],
    ['vit', { patch_size: 3 }, /"image_size" is 4 .* multiple of "patch_size" \(3\)/],
    ['vit', { qkv_bias: 'yes' }, /"qkv_bias" is "yes" \(a string\), but must be true or false/],
    ['gpt2', { n_inner: 1.5 }, /"n_inner" is 1.5/],
    ['gpt2', { vocab_size: undefined }, /"vocab_size" is missing/],
    [
      'gemma',
      { num_key_value_heads: 3 },
      /"num_attention_heads" .* multiple of "num_key_value_heads"/,
    ],
    ['gemma', { head_dim: 5 }, /"head_dim" is 5 .* even/],
    ['gemma', { rope_parameters: { rope_theta: '1' } }, /"rope_parameters.rope_theta" is "1"/],
    ['gemma', { rope_parameters: { rope_type: 'yarn' } }, /"rope_parameters.rope_type" is "yarn"/],
    ['gemma', { attention_bias: true }, /"attention_bias"/],
  ] as const)('%s: config.json with %j', (type, fields, message) => {
    expect(load({ ...tinyConfigs[type], ...fields })).toThrow(refusal('CONFIG_INVALID', message));
  });

  test('a missing tensor and one of the wrong shape are named', () => {
    const model = tinyModel('bert');
    const tensors = storedTensors(model);
    model.dispose();
    const read = () => createModel(tinyConfigs.bert, (name) => tensors.get(name));
    const name = 'bert.encoder.layer.1.intermediate.dense.weight';
    tensors.set(name, { shape: [8, 12], data: new Float32Array(96) });
    expect(read).toThrow(
      expect.objectContaining({
        code: 'SHAPE_MISMATCH',
        message: `Tensor "${name}" has shape [8, 12], but config.json asks for [12, 8].`,
      }),
    );
    tensors.delete(name);
    expect(read).toThrow(
      expect.objectContaining({
        code: 'TENSOR_MISSING',
        message: expect.stringContaining(`"${name}"`),
      }),
    );
    expect(tf.memory().numTensors).toBe(0);
  });
});
