import { feedForward, linear } from '@d2dmoe/kernels';
import { Random } from '@d2dmoe/core';
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { refusal } from '../testing/refusal.js';
import {
  logitsOf,
  maxDifference,
  modelTypes,
  tinyBatch,
  tinyConfigs,
  tinyModel,
} from '../testing/tiny.js';
import type { Batch } from './architecture.js';
import { initModel } from './create.js';
import type { Model } from './model.js';
import type { Site, SiteValues } from './site.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

describe.each(modelTypes)('%s', (type) => {
  test('names its sites in order of execution, and a tap sees each once with its shapes', () => {
    const model = tinyModel(type);
    const seen: string[] = [];
    logitsOf(model, {
      tap: (site, values) => {
        seen.push(site.name);
        expect(values.input.shape[1]).toBe(site.dIn);
        expect(values.output.shape).toEqual([values.input.shape[0], site.dOut]);
        const hidden =
          site.kind === 'feedForward' ? [values.input.shape[0], site.hidden] : undefined;
        expect(values.preActivation?.shape).toEqual(hidden);
        expect(values.activation?.shape).toEqual(hidden);
        expect(values.hidden?.shape).toEqual(hidden);
      },
    });
    const parts = ['attention.q', 'attention.k', 'attention.v', 'attention.o', 'ffn'];
    const names = [0, 1].flatMap((layer) => parts.map((part) => `layers.${layer}.${part}`));
    expect(seen).toEqual(names);
    expect(model.sites.map(({ name }) => name)).toEqual(names);
    model.dispose();
  });

  test('an FFN tap agrees with the neuron-major weights of its site', () => {
    const model = tinyModel(type);
    let checked = 0;
    logitsOf(model, {
      tap: (site, values) => {
        if (site.kind !== 'feedForward') return;
        const weights = model.weights(site);
        expect(weights.up.shape).toEqual([site.hidden, site.dIn]);
        expect(weights.down.shape).toEqual([site.hidden, site.dOut]);
        const output = feedForward(values.input, weights);
        expect(
          maxDifference(output.dataSync<'float32'>(), values.output.dataSync<'float32'>()),
        ).toBeLessThan(1e-5);
        // act(preActivation), times the up projection of a GLU, times down.
        const { hidden, preActivation } = values as Required<SiteValues>;
        const first = linear(
          values.input,
          weights.gate ?? weights.up,
          weights.gate ? undefined : weights.upBias,
        );
        expect(
          maxDifference(first.dataSync<'float32'>(), preActivation.dataSync<'float32'>()),
        ).toBeLessThan(1e-5);
        const downBias = weights.downBias ?? tf.zeros([site.dOut]);
        const product = tf.add(tf.matMul(hidden, weights.down), downBias);
        expect(
          maxDifference(product.dataSync<'float32'>(), values.output.dataSync<'float32'>()),
        ).toBeLessThan(1e-5);
        checked++;
      },
    });
    expect(checked).toBe(2);
    model.dispose();
  });

  test('substituting a site by what it computes leaves the logits, by something else changes them', () => {
    const model = tinyModel(type);
    const dense = logitsOf(model);
    const outputs = new Map<string, { values: Float32Array; shape: [number, number] }>();
    logitsOf(model, {
      tap: ({ name }, { output }) =>
        outputs.set(name, { values: output.dataSync<'float32'>(), shape: output.shape }),
    });
    for (const site of model.sites) {
      const replay = (factor: number) => (s: Site) => {
        const recorded = outputs.get(s.name);
        if (s.name !== site.name || recorded === undefined) return undefined;
        return tf.tensor2d(
          recorded.values.map((x) => factor * x),
          recorded.shape,
        );
      };
      const same = logitsOf(model, { substitute: replay(1) });
      expect(maxDifference(same, dense)).toBeLessThan(1e-5);
      const doubled = logitsOf(model, { substitute: replay(2) });
      expect(maxDifference(doubled, dense)).toBeGreaterThan(1e-4);
    }
    // A tap sees the substitute's output, and no activations.
    logitsOf(model, {
      substitute: (site, x) => (site.role === 'ffn' ? tf.zerosLike(x) : undefined),
      tap: (site, values) => {
        if (site.role !== 'ffn') return;
        expect(values.output.dataSync<'float32'>().every((x) => x === 0)).toBe(true);
        expect(values.hidden).toBeUndefined();
      },
    });
    model.dispose();
  });

  test('permuted neurons compute the same and really moved', () => {
    const model = tinyModel(type);
    const dense = logitsOf(model);
    const site = model.site('layers.1.ffn');
    const order = new Random(9).permutation(site.hidden);
    const upBefore = tf.tidy(() => model.weights(site).up.arraySync());
    model.permuteNeurons(site, order);
    const upAfter = tf.tidy(() => model.weights(site).up.arraySync());
    expect(upAfter).toEqual(Array.from(order, (from) => upBefore[from]));
    expect(maxDifference(logitsOf(model), dense)).toBeLessThan(1e-5);
    expect(() =>
      model.permuteNeurons(
        site,
        order.map(() => 0),
      ),
    ).toThrow(/each of 0 … 11 once/);
    expect(() => model.permuteNeurons(site, order.subarray(1))).toThrow(/each of 0 … 11 once/);
    expect(() => model.permuteNeurons(model.site('layers.0.attention.q'), order)).toThrow(
      /is a projection/,
    );
    model.dispose();
  });

  test('relufy changes the activation in the forward pass and in every field of config.json', () => {
    const model = tinyModel(type);
    const before = logitsOf(model);
    expect(model.activation).not.toBe('relu');
    model.relufy();
    expect(model.activation).toBe('relu');
    const fields = {
      vit: ['hidden_act'],
      bert: ['hidden_act'],
      gpt2: ['activation_function'],
      gemma: ['hidden_act', 'hidden_activation'],
    }[type];
    expect(fields.map((field) => model.config[field])).toEqual(fields.map(() => 'relu'));
    logitsOf(model, {
      tap: (_, { preActivation, activation }) => {
        if (!preActivation || !activation) return;
        const expected = preActivation.dataSync<'float32'>().map((x) => Math.max(x, 0));
        expect(maxDifference(activation.dataSync<'float32'>(), expected)).toBe(0);
      },
    });
    expect(maxDifference(logitsOf(model), before)).toBeGreaterThan(1e-4);
    model.dispose();
  });

  test('a forward pass leaves nothing behind but its results, and dispose frees the rest', () => {
    expect(tf.memory().numTensors).toBe(0);
    const model = tinyModel(type);
    const batch = tinyBatch(type);
    const before = tf.memory().numTensors;
    const { logits, hiddenStates } = tf.tidy(() => model.forward(batch, { hiddenStates: true }));
    expect(tf.memory().numTensors).toBe(before + 1 + 3);
    tf.dispose([logits, hiddenStates ?? [], ...Object.values(batch)]);
    model.permuteNeurons(model.site('layers.0.ffn'), new Random(1).permutation(12));
    model.dispose();
    expect(tf.memory().numTensors).toBe(0);
  });
});

test.each(['gpt2', 'gemma'] as const)(
  '%s: a position does not see later ones, nor padding before it',
  (type) => {
    const model = tinyModel(type);
    const run = (ids: number[], mask?: number[]) =>
      tf.tidy(() => {
        const inputIds = tf.tensor2d([ids], undefined, 'int32');
        const attentionMask = mask && tf.tensor2d([mask], undefined, 'int32');
        const { logits } = model.forward({ inputIds, ...(attentionMask && { attentionMask }) });
        return (logits as tf.Tensor3D).arraySync()[0] as number[][];
      });
    const row = (logits: number[][], i: number) => Float32Array.from(logits[i] as number[]);
    const short = run([1, 2, 3, 4]);
    expect(maxDifference(row(run([1, 2, 3, 9]), 2), row(short, 2))).toBe(0);
    expect(maxDifference(row(run([5, 2, 3, 4]), 2), row(short, 2))).toBeGreaterThan(1e-4);
    const mask = [0, 1, 1, 1];
    expect(maxDifference(row(run([5, 2, 3, 4], mask), 3), row(run([1, 2, 3, 4], mask), 3))).toBe(0);
    model.dispose();
  },
);

test('BERT: what stands in padding does not matter', () => {
  const model = tinyModel('bert');
  const run = (last: number) =>
    tf.tidy(() => {
      const inputIds = tf.tensor2d([[1, 2, last]], undefined, 'int32');
      const attentionMask = tf.tensor2d([[1, 1, 0]], undefined, 'int32');
      return model.forward({ inputIds, attentionMask }).logits.dataSync<'float32'>();
    });
  expect(maxDifference(run(3), run(7))).toBe(0);
  model.dispose();
});

test('GPT-2: some of the fused q, k and v can be substituted alone', () => {
  const model = tinyModel('gpt2');
  const dense = logitsOf(model);
  const weight = model.params.get('transformer.h.0.attn.c_attn.weight') as tf.Tensor as tf.Tensor2D;
  const bias = model.params.get('transformer.h.0.attn.c_attn.bias') as tf.Tensor as tf.Tensor1D;
  const substituted = logitsOf(model, {
    substitute: (site, x) =>
      site.name === 'layers.0.attention.k'
        ? tf.add(tf.matMul(x, tf.slice2d(weight, [0, 8], [8, 8])), tf.slice1d(bias, 8, 8))
        : undefined,
  });
  expect(maxDifference(substituted, dense)).toBeLessThan(1e-5);
  model.dispose();
});

test('a batch that does not fit the model is refused in one sentence', () => {
  const bert = tinyModel('bert');
  const vit = tinyModel('vit');
  const run = (model: Model, batch: () => Batch) => () =>
    tf.tidy(() => void model.forward(batch()));
  const ids = (shape: [number, number]) => tf.zeros<tf.Rank.R2>(shape, 'int32');
  expect(run(bert, () => ({ inputIds: ids([1, 7]) }))).toThrow(
    refusal('INPUT_INVALID', /7 positions, but the model has at most 6/),
  );
  expect(run(bert, () => ({ inputIds: ids([1, 4]), attentionMask: ids([1, 3]) }))).toThrow(
    refusal(
      'INPUT_INVALID',
      /attentionMask has shape \[1, 3\], but must be that of inputIds, \[1, 4\]/,
    ),
  );
  expect(run(vit, () => ({ inputIds: ids([1, 4]) }))).toThrow(
    refusal('INPUT_INVALID', /needs pixelValues/),
  );
  expect(run(bert, () => ({ pixelValues: tf.zeros<tf.Rank.R4>([1, 3, 4, 4]) }))).toThrow(
    refusal('INPUT_INVALID', /needs inputIds/),
  );
  expect(run(vit, () => ({ pixelValues: tf.zeros<tf.Rank.R4>([1, 3, 5, 5]) }))).toThrow(
    refusal('INPUT_INVALID', /\[batch, 3, 4, 4\]/),
  );
  bert.dispose();
  vit.dispose();
});

test('a fresh model depends on the seed alone, and starts as its norms and biases should', () => {
  const fresh = (seed: number) => initModel(tinyConfigs.gemma, new Random(seed));
  const [a, b, c] = [fresh(1), fresh(1), fresh(2)];
  expect(logitsOf(a)).toEqual(logitsOf(b));
  expect(logitsOf(a)).not.toEqual(logitsOf(c));
  expect(
    a.params
      .get('model.norm.weight')
      ?.dataSync()
      .every((x) => x === 0),
  ).toBe(true);
  const bert = initModel(tinyConfigs.bert, new Random(1));
  expect(
    bert.params
      .get('bert.embeddings.LayerNorm.weight')
      ?.dataSync()
      .every((x) => x === 1),
  ).toBe(true);
  expect(
    bert.params
      .get('classifier.bias')
      ?.dataSync()
      .every((x) => x === 0),
  ).toBe(true);
  const words = bert.params.get('bert.embeddings.word_embeddings.weight');
  const embeddings = Array.from(words?.dataSync() ?? []);
  const deviation = Math.sqrt(embeddings.reduce((sum, x) => sum + x * x, 0) / embeddings.length);
  expect(deviation).toBeGreaterThan(0.2);
  expect(deviation).toBeLessThan(0.4);
  for (const model of [a, b, c, bert]) model.dispose();
});
