import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Random } from '@d2dmoe/core';
import { feedForward, linear } from '@d2dmoe/kernels';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import { beforeAll, describe, expect, test } from 'vitest';
import { temporaryFolder } from '../testing/folder.js';
import { refusal } from '../testing/refusal.js';
import {
  logitsOf,
  maxDifference,
  modelTypes,
  tinyBatch,
  tinyConfigs,
  tinyModel,
} from '../testing/tiny.js';
import { KeyValueCache } from './cache.js';
import type { ModelType } from './config.js';
import { initModel } from './create.js';
import { dynamicSubstitute, packModel } from './dynamic.js';
import { dynamicConfig, replacementNames, routerNames } from './dynamic-config.js';
import { loadModel } from './load.js';
import type { Model } from './model.js';
import { saveModel } from './save.js';
import type { SiteValues } from './site.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

/** Layer 0's q, v and o, and layer 1's k. */
const projections = {
  'layers.0.attention.q': { hidden_width: 6 },
  'layers.0.attention.v': { hidden_width: 4 },
  'layers.0.attention.o': { hidden_width: 2 },
  'layers.1.attention.k': { hidden_width: 4 },
};
const replacedNames = Object.keys(projections);
const routed = { expert_size: 2, router_width: 3 };
const d2dmoe = {
  format_version: 1,
  tau: 0,
  projections,
  sites: Object.fromEntries([...replacedNames, 'layers.1.ffn'].map((name) => [name, routed])),
};

const replaced = (type: ModelType, extra: object = {}) =>
  tinyModel(type, { d2dmoe: { ...d2dmoe, ...extra } });

const all = { rule: { rule: 'threshold', value: 0 } } as const;

describe.each(modelTypes)('%s', (type) => {
  test('replaced projections run as the two layers that their weights are', () => {
    const model = replaced(type);
    const logits = logitsOf(model);
    const bySubstitute = logitsOf(model, {
      substitute: (site, x) =>
        site.name in projections ? feedForward(x, model.weights(site)) : undefined,
    });
    expect(maxDifference(logits, bySubstitute)).toBeLessThan(1e-5);
    // The originals are there, and what ran was something else.
    const originals = logitsOf(model, {
      substitute: (site, x) => {
        if (!(site.name in projections)) return undefined;
        const { weight, bias } = model.projection(site);
        return linear(x, weight, bias);
      },
    });
    const dense = tinyModel(type);
    for (const [name, variable] of dense.params) variable.assign(model.params.get(name) as never);
    expect(maxDifference(originals, logitsOf(dense))).toBeLessThan(1e-5);
    expect(maxDifference(logits, originals)).toBeGreaterThan(1e-4);
    dense.dispose();
    model.dispose();
  });

  test('a tap sees their neurons, and an edit can change what the second layer multiplies', () => {
    const model = replaced(type);
    const seen = new Map<string, SiteValues>();
    const logits = logitsOf(model, {
      tap: (site, values) => {
        if (site.kind !== 'projection' || !values.preActivation || !values.hidden) return;
        const { up, upBias } = model.weights(site);
        const z = linear(values.input, up, upBias).dataSync<'float32'>();
        const ran = values.preActivation.dataSync<'float32'>();
        const rectified = z.map((value) => Math.max(0, value));
        expect(values.hidden.shape).toEqual([values.input.shape[0], site.hidden]);
        expect(maxDifference(z, ran)).toBeLessThan(1e-6);
        expect(maxDifference(values.hidden.dataSync<'float32'>(), rectified)).toBeLessThan(1e-6);
        expect(values.hidden).toBe(values.activation);
        seen.set(site.name, values);
      },
    });
    expect([...seen.keys()]).toEqual(
      model.sites.map(({ name }) => name).filter((name) => name in projections),
    );
    const edited = logitsOf(model, {
      edit: (site, _, hidden) => (site.kind === 'projection' ? tf.zerosLike(hidden) : undefined),
    });
    const biasAlone = logitsOf(model, {
      substitute: (site, x) =>
        site.name in projections
          ? tf.add<tf.Tensor2D>(
              tf.zeros([x.shape[0], site.dOut]),
              model.weights(site).downBias as tf.Tensor1D,
            )
          : undefined,
    });
    expect(maxDifference(edited, biasAlone)).toBeLessThan(1e-5);
    expect(maxDifference(edited, logits)).toBeGreaterThan(1e-4);
    model.dispose();
  });

  test('with every expert they give what they give densely, packed or not; with fewer something else', () => {
    const model = replaced(type);
    const dense = logitsOf(model);
    const substitute = dynamicSubstitute(model, all);
    expect(maxDifference(logitsOf(model, { substitute }), dense)).toBeLessThan(1e-5);
    substitute.dispose();
    const one = { rule: 'topK', value: 1 } as const;
    const few = dynamicSubstitute(model, {
      rule: ({ kind }) => (kind === 'projection' ? one : all.rule),
    });
    const fewer = logitsOf(model, { substitute: few });
    expect(maxDifference(fewer, dense)).toBeGreaterThan(1e-4);
    few.dispose();
    packModel(model);
    const packed = dynamicSubstitute(model, all);
    expect(maxDifference(logitsOf(model, { substitute: packed }), dense)).toBeLessThan(1e-5);
    expect(() => logitsOf(model)).toThrow(expect.objectContaining({ code: 'WEIGHTS_RELEASED' }));
    packed.dispose();
    model.dispose();
  });

  test('permuting their neurons leaves the logits', () => {
    const model = replaced(type);
    const before = logitsOf(model);
    const site = model.site('layers.0.attention.q');
    model.permuteNeurons(site, Uint32Array.of(3, 1, 0, 5, 4, 2));
    expect(maxDifference(logitsOf(model), before)).toBeLessThan(1e-5);
    model.dispose();
  });

  test('saved and loaded: the same logits, the original tensors as they were', async () => {
    const directory = temporaryFolder();
    const before = tf.memory().numTensors;
    const model = replaced(type);
    const logits = logitsOf(model);
    const substitute = dynamicSubstitute(model, { rule: { rule: 'topK', value: 1 } });
    const sparse = logitsOf(model, { substitute });
    substitute.dispose();
    await saveModel(model, directory);
    const loaded = await loadModel(directory);
    expect(dynamicConfig(loaded)).toEqual(d2dmoe);
    expect(loaded.site('layers.0.attention.v').hidden).toBe(4);
    expect(loaded.site('layers.0.attention.k').hidden).toBe(0);
    expect(maxDifference(logitsOf(loaded), logits)).toBe(0);
    const again = dynamicSubstitute(loaded, { rule: { rule: 'topK', value: 1 } });
    expect(maxDifference(logitsOf(loaded, { substitute: again }), sparse)).toBe(0);
    again.dispose();
    const dense = tinyModel(type);
    const reader = await openCheckpoint(directory);
    for (const [name, { shape }] of dense.params) {
      expect(reader.tensors.get(name)?.shape).toEqual(shape);
      expect(await reader.readFloat32(name)).toEqual(await model.params.get(name)?.data());
    }
    const extra = [...reader.tensors.keys()].filter((name) => !dense.params.has(name));
    const expected = Object.keys(d2dmoe.sites).flatMap((name) => {
      const { hidden, output } = routerNames(name);
      const { up, upBias, down, downBias } = replacementNames(name);
      return name in projections ? [hidden, output, up, upBias, down, downBias] : [hidden, output];
    });
    expect(extra.toSorted()).toEqual(expected.toSorted());
    await reader.close();
    for (const each of [model, loaded, dense]) each.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  test('a projection’s own matrix and bias are what its site computes', () => {
    const model = tinyModel(type);
    logitsOf(model, {
      tap: (site, { input, output }) => {
        if (site.kind !== 'projection') return;
        const { weight, bias } = model.projection(site);
        expect(weight.shape).toEqual([site.dOut, site.dIn]);
        expect(bias?.shape).toEqual(type === 'gemma' ? undefined : [site.dOut]);
        const computed = linear(input, weight, bias).dataSync<'float32'>();
        expect(maxDifference(computed, output.dataSync<'float32'>())).toBeLessThan(1e-5);
      },
    });
    expect(() => model.projection(model.site('layers.0.ffn'))).toThrow(
      refusal('SITE_KIND', /layers.0.ffn is an FFN/),
    );
    model.dispose();
  });
});

test.each(['gpt2', 'gemma'] as const)('%s: keys and values in a cache', (type) => {
  const model = replaced(type);
  const ids = [1, 5, 2, 7];
  const full = tf.tidy(() => lastLogits(model, [ids]));
  const cache = new KeyValueCache();
  const first = tf.tidy(() => lastLogits(model, [ids.slice(0, 3)], cache));
  const second = tf.tidy(() => lastLogits(model, [ids.slice(3)], cache));
  expect(maxDifference(second, full)).toBeLessThan(1e-5);
  expect(maxDifference(first, full)).toBeGreaterThan(1e-4);
  cache.dispose();
  model.dispose();
});

test('a replacement is trained with the model, the projection that it replaces is not', () => {
  const model = replaced('bert');
  const batch = tinyBatch('bert');
  const { grads, value } = tf.tidy(() => {
    const found = tf.variableGrads(
      () => tf.sum(tf.square(model.forward(batch).logits)),
      [...model.params.values()],
    );
    return { ...found, value: tf.clone(found.value) };
  });
  const { up } = replacementNames('layers.0.attention.q');
  const nameOf = (param: string) => model.params.get(param)?.name as string;
  expect(grads[nameOf(up)]).toBeDefined();
  expect(grads[nameOf('bert.encoder.layer.0.attention.self.query.weight')]).toBeUndefined();
  expect(grads[nameOf('bert.encoder.layer.0.attention.self.key.weight')]).toBeDefined();
  tf.dispose([grads, value, { ...batch }]);
  model.dispose();
});

test('what config.json says of projections is checked', () => {
  const load = (change: object) => () =>
    initModel({ ...tinyConfigs.bert, d2dmoe: { ...d2dmoe, ...change } }, new Random(1));
  const refused: [object, RegExp][] = [
    [{ projections: 3 }, /d2dmoe.projections" is 3/],
    [{ projections: { 'layers.0.ffn': { hidden_width: 4 } } }, /no attention projection of that/],
    [{ projections: { 'layers.9.attention.q': { hidden_width: 4 } } }, /no attention projection/],
    [{ projections: { 'layers.0.attention.q': null } }, /must be an object/],
    [{ projections: { 'layers.0.attention.q': {} } }, /hidden_width" is missing/],
    [{ projections: { 'layers.0.attention.q': { hidden_width: 0 } } }, /hidden_width" is 0/],
    [{ projections: undefined }, /no replaced projection of that name/],
    [
      { sites: { 'layers.0.attention.q': { expert_size: 4 } } },
      /expert_size" is 4 .* a divisor of the hidden width 6/,
    ],
  ];
  for (const [change, message] of refused) {
    expect(load(change)).toThrow(refusal('CONFIG_INVALID', message));
  }
});

test('a checkpoint of this format that names no projections has none', () => {
  const config = JSON.parse(JSON.stringify({ ...d2dmoe, projections: undefined, sites: {} }));
  const model = tinyModel('vit', { d2dmoe: config as object });
  expect(dynamicConfig(model)).toEqual({ format_version: 1, tau: 0, sites: {} });
  expect(model.sites.filter(({ hidden }) => hidden > 0).map(({ role }) => role)).toEqual([
    'ffn',
    'ffn',
  ]);
  model.dispose();
});

test('a replacement’s tensor that is missing is named', async () => {
  const directory = temporaryFolder();
  const model = tinyModel('bert');
  model.config['d2dmoe'] = { format_version: 1, tau: 0, projections, sites: {} };
  await saveModel(model, directory);
  expect(readFileSync(join(directory, 'config.json'), 'utf8')).toContain('hidden_width');
  await expect(loadModel(directory)).rejects.toThrow(
    refusal('TENSOR_MISSING', /d2dmoe.layers.0.attention.q.replacement.up.weight/),
  );
  model.dispose();
});

function lastLogits(model: Model, ids: number[][], cache?: KeyValueCache): Float32Array {
  const inputIds = tf.tensor2d(ids, undefined, 'int32');
  const { logits } = model.forward({ inputIds }, cache ? { cache } : {});
  const [, positions = 0, vocabulary = 0] = logits.shape;
  return tf
    .slice(logits, [0, positions - 1, 0], [1, 1, vocabulary])
    .dataSync<'float32'>()
    .slice();
}
