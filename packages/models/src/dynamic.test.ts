import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Random } from '@d2dmoe/core';
import { hiddenActivations } from '@d2dmoe/kernels';
import '@tensorflow/tfjs-backend-cpu';
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
import { initModel } from './create.js';
import { dynamicSubstitute, packModel } from './dynamic.js';
import { dynamicConfig, routerNames } from './dynamic-config.js';
import { loadModel } from './load.js';
import type { ModelType } from './config.js';
import { saveModel } from './save.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

const site = { expert_size: 3, router_width: 5 };
const d2dmoe = {
  format_version: 1,
  tau: 0.25,
  sites: { 'layers.0.ffn': site, 'layers.1.ffn': { expert_size: 2, router_width: 5 } },
};

const converted = (type: ModelType) => tinyModel(type, { d2dmoe });

describe.each(modelTypes)('%s', (type) => {
  test('with every expert the logits are the dense ones', () => {
    const model = converted(type);
    model.relufy();
    const dense = logitsOf(model);
    const substitute = dynamicSubstitute(model, { rule: { rule: 'threshold', value: 0 } });
    expect(maxDifference(logitsOf(model, { substitute }), dense)).toBeLessThan(1e-5);
    substitute.dispose();
    model.dispose();
  });

  test('τ runs fewer experts, and the output is that of the neurons left', () => {
    const model = converted(type);
    const dense = logitsOf(model);
    const densities: number[] = [];
    const masks = new Map<string, tf.Tensor2D>();
    const substitute = dynamicSubstitute(model, {
      rule: ({ layer }) => ({ rule: 'threshold', value: layer === 0 ? 1 : 0.7 }),
      onSelection: (site, selection, norms) => {
        expect(norms.shape).toEqual(selection.shape);
        expect(selection.shape[1]).toBe(site.layer === 0 ? 4 : 6);
        const mask = tf.cast(selection, 'float32');
        densities.push(tf.mean(mask).dataSync()[0] as number);
        masks.set(site.name, tf.keep(mask));
      },
    });
    const sparse = logitsOf(model, { substitute });
    // τ = 1 runs the best expert alone, but for ties.
    expect(densities[0]).toBeCloseTo(1 / 4, 5);
    expect(densities[1]).toBeGreaterThan(1 / 6 - 1e-6);
    expect(densities[1]).toBeLessThan(1);
    expect(maxDifference(sparse, dense)).toBeGreaterThan(1e-4);
    const masked = logitsOf(model, {
      substitute: (site, x) => {
        const mask = masks.get(site.name);
        if (mask === undefined) return undefined;
        const { down, downBias } = model.weights(site);
        const hidden = hiddenActivations(x, model.weights(site));
        const [rows, experts] = mask.shape;
        const width = site.hidden / experts;
        const byExpert = tf.mul(
          tf.reshape(hidden, [rows, experts, width]),
          tf.reshape(mask, [rows, experts, 1]),
        );
        const output = tf.matMul<tf.Tensor2D>(
          tf.reshape<tf.Rank.R2>(byExpert, [rows, site.hidden]),
          down,
        );
        return downBias ? tf.add(output, downBias) : output;
      },
    });
    expect(maxDifference(sparse, masked)).toBeLessThan(1e-5);
    tf.dispose([...masks.values()]);
    substitute.dispose();
    model.dispose();
  });
});

test('sites without a router stay dense', () => {
  const model = tinyModel('bert', { d2dmoe: { ...d2dmoe, sites: { 'layers.1.ffn': site } } });
  const selected: string[] = [];
  const substitute = dynamicSubstitute(model, {
    rule: { rule: 'topK', value: 1 },
    onSelection: ({ name }) => selected.push(name),
  });
  logitsOf(model, { substitute });
  expect(selected).toEqual(['layers.1.ffn']);
  substitute.dispose();
  model.dispose();
});

test('repeated runs keep no more than the packed experts, and dispose frees those', () => {
  const model = converted('gemma');
  const batch = tinyBatch('gemma');
  const dense = tf.memory().numTensors;
  const substitute = dynamicSubstitute(model, { rule: { rule: 'threshold', value: 0.5 } });
  const run = () => tf.tidy(() => void model.forward(batch, { substitute }));
  run();
  const packed = tf.memory().numTensors;
  // up, gate and down of two layers, and handles of their routers' two matrices
  expect(packed).toBe(dense + 2 * 3 + 2 * 2);
  run();
  expect(tf.memory().numTensors).toBe(packed);
  substitute.dispose();
  expect(tf.memory().numTensors).toBe(dense);
  tf.dispose(Object.values(batch));
  model.dispose();
  expect(tf.memory().numTensors).toBe(0);
});

test.each(modelTypes)('a packed %s runs as before, without its dense weights', async (type) => {
  const model = converted(type);
  const rule = { rule: 'threshold', value: 0.6 } as const;
  const before = dynamicSubstitute(model, { rule });
  const expected = logitsOf(model, { substitute: before });
  before.dispose();
  const { numTensors, numBytes } = tf.memory();
  packModel(model);
  expect(tf.memory()).toMatchObject({ numTensors, numBytes });
  packModel(model);
  const substitute = dynamicSubstitute(model, { rule });
  expect(maxDifference(logitsOf(model, { substitute }), expected)).toBeLessThan(1e-6);
  substitute.dispose();
  expect(tf.memory()).toMatchObject({ numTensors, numBytes });
  const site = model.site('layers.1.ffn');
  const released = refusal('WEIGHTS_RELEASED', /was freed.* load it again/);
  expect(() => logitsOf(model)).toThrow(released);
  expect(() => model.weights(site)).toThrow(released);
  expect(() =>
    model.permuteNeurons(
      site,
      Uint32Array.from({ length: 12 }, (_, i) => i),
    ),
  ).toThrow(released);
  await expect(saveModel(model, temporaryFolder())).rejects.toThrow(
    refusal('WEIGHTS_RELEASED', /load it again/),
  );
  model.dispose();
  expect(tf.memory().numTensors).toBe(0);
});

test('a dense model has nothing to pack', () => {
  const model = tinyModel('bert');
  expect(() => packModel(model)).toThrow(refusal('ROUTER_MISSING', /no routers/));
  model.dispose();
});

test('routers are saved with the model and loaded again', async () => {
  const directory = temporaryFolder();
  const model = converted('gpt2');
  await saveModel(model, directory);
  const loaded = await loadModel(directory);
  expect(dynamicConfig(loaded)).toEqual(d2dmoe);
  expect([...loaded.routers.keys()]).toEqual(['layers.0.ffn', 'layers.1.ffn']);
  for (const [name, router] of loaded.routers) {
    const original = model.routers.get(name);
    expect(router.hidden.arraySync()).toEqual(original?.hidden.arraySync());
    expect(router.output.arraySync()).toEqual(original?.output.arraySync());
  }
  expect(loaded.routers.get('layers.1.ffn')?.output.shape).toEqual([6, 5]);
  model.dispose();
  loaded.dispose();
  expect(tf.memory().numTensors).toBe(0);
});

test('a model that is split but has no routers yet is saved and loaded as such', async () => {
  const directory = temporaryFolder();
  const split = { ...d2dmoe, sites: { 'layers.0.ffn': { expert_size: 3 } } };
  const model = tinyModel('vit', { d2dmoe: split });
  await saveModel(model, directory);
  const loaded = await loadModel(directory);
  expect(dynamicConfig(loaded)).toEqual(split);
  expect(loaded.routers.size).toBe(0);
  model.dispose();
  loaded.dispose();
});

test('a calibration is read as it was written, and refused where it is not one', () => {
  const point = { tau: { 'layers.0.ffn': 0.5 }, score: 0.9, cost: 0.6 };
  const calibration = {
    score: 'accuracy',
    dense_score: 0.92,
    path: [{ tau: 0, score: 0.91, cost: 1.02 }, point],
    operating_points: { 'keep-0.97': point },
  };
  const read = (value: unknown) => {
    const model = tinyModel('bert', { d2dmoe: { ...d2dmoe, calibration: value } });
    const config = dynamicConfig(model);
    model.dispose();
    return config?.calibration;
  };
  expect(read(calibration)).toEqual(calibration);
  expect(read(undefined)).toBeUndefined();
  const refused: [object, RegExp][] = [
    [{ score: 'f1' }, /calibration.score" is "f1"/],
    [{ path: 5 }, /calibration.path" is 5 .* an array of objects/],
    [{ path: [point, null] }, /calibration.path.1" is null/],
    [{ path: [{ ...point, cost: -1 }] }, /calibration.path.0.cost" is -1/],
    [{ operating_points: { fast: 1 } }, /operating_points.fast" is 1/],
  ];
  for (const [change, message] of refused) {
    expect(() => read({ ...calibration, ...change })).toThrow(refusal('CONFIG_INVALID', message));
  }
});

describe('bad input', () => {
  const load = (object: unknown) => () =>
    initModel({ ...tinyConfigs.bert, d2dmoe: object }, new Random(1));
  const withSite = (name: string, value: unknown) => ({ ...d2dmoe, sites: { [name]: value } });

  test('the d2dmoe object', () => {
    expect(load(5)).toThrow(refusal('CONFIG_INVALID', /"d2dmoe" is 5 .* must be an object/));
    expect(load({ ...d2dmoe, format_version: 2 })).toThrow(
      refusal('FORMAT_VERSION_UNSUPPORTED', /format_version is 2.* reads 1 only/),
    );
    expect(load({ ...d2dmoe, format_version: '1' })).toThrow(
      refusal('CONFIG_INVALID', /"d2dmoe.format_version" is "1"/),
    );
    expect(load({ ...d2dmoe, tau: 1.5 })).toThrow(
      refusal('CONFIG_INVALID', /"d2dmoe.tau" is 1.5 .* from 0 to 1/),
    );
    expect(load({ ...d2dmoe, tau: { 'layers.0.ffn': 0.5, 'layers.1.ffn': 2 } })).toThrow(
      refusal('CONFIG_INVALID', /"d2dmoe.tau.layers.1.ffn" is 2 .* from 0 to 1/),
    );
    expect(load({ ...d2dmoe, tau: { 'layers.9.ffn': 0.5 } })).toThrow(
      refusal('CONFIG_INVALID', /"d2dmoe.tau.layers.9.ffn".* no site of that name/),
    );
    expect(load({ ...d2dmoe, sites: undefined })).toThrow(
      refusal('CONFIG_INVALID', /"d2dmoe.sites" is missing/),
    );
    expect(load(withSite('layers.2.ffn', site))).toThrow(
      refusal('CONFIG_INVALID', /"d2dmoe.sites.layers.2.ffn".* no FFN site/),
    );
    expect(load(withSite('layers.0.attention.q', site))).toThrow(
      refusal('CONFIG_INVALID', /no FFN site/),
    );
    expect(load(withSite('layers.0.ffn', null))).toThrow(
      refusal('CONFIG_INVALID', /must be an object/),
    );
    expect(load(withSite('layers.0.ffn', { ...site, expert_size: 5 }))).toThrow(
      refusal('CONFIG_INVALID', /expert_size" is 5 .* a divisor of the hidden width 12/),
    );
    expect(load(withSite('layers.0.ffn', { router_width: 5 }))).toThrow(
      refusal('CONFIG_INVALID', /expert_size" is missing/),
    );
    expect(load(withSite('layers.0.ffn', { ...site, router_width: 0 }))).toThrow(
      refusal('CONFIG_INVALID', /router_width" is 0/),
    );
  });

  test('router tensors that do not fit it, or are missing', async () => {
    const directory = temporaryFolder();
    const model = converted('bert');
    await saveModel(model, directory);
    model.dispose();
    const path = join(directory, 'config.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const rewrite = (entry: object) => {
      const sites = { ...d2dmoe.sites, 'layers.0.ffn': entry };
      writeFileSync(path, JSON.stringify({ ...config, d2dmoe: { ...d2dmoe, sites } }));
    };
    rewrite({ expert_size: 4, router_width: 5 });
    const { output } = routerNames('layers.0.ffn');
    await expect(loadModel(directory)).rejects.toThrow(
      `Tensor "${output}" has shape [4, 5], but config.json asks for [3, 5].`,
    );
    const dense = tinyModel('bert');
    await saveModel(dense, directory);
    dense.dispose();
    rewrite(site);
    await expect(loadModel(directory)).rejects.toThrow(
      /no tensor "d2dmoe.layers.0.ffn.router.hidden.weight"/,
    );
  });

  test('a model whose routers and config disagree is not saved', async () => {
    const directory = temporaryFolder();
    const model = converted('bert');
    const router = model.routers.get('layers.1.ffn');
    model.routers.delete('layers.1.ffn');
    await expect(saveModel(model, directory)).rejects.toThrow(
      refusal(
        'ROUTER_MISMATCH',
        /asks for router tensor "d2dmoe.layers.1.ffn.router.hidden.weight"/,
      ),
    );
    if (router) model.routers.set('layers.1.ffn', router);
    model.config['d2dmoe'] = { ...d2dmoe, sites: { 'layers.0.ffn': site } };
    await expect(saveModel(model, directory)).rejects.toThrow(
      refusal('ROUTER_MISMATCH', /asks for none of that name/),
    );
    model.config['d2dmoe'] = d2dmoe;
    await saveModel(model, directory);
    model.dispose();
  });

  test('a dense model has nothing to select', () => {
    const model = tinyModel('vit');
    const rule = { rule: 'threshold', value: 0.5 } as const;
    expect(() => dynamicSubstitute(model, { rule })).toThrow(
      expect.objectContaining({ code: 'ROUTER_MISSING' }),
    );
    model.dispose();
  });
});
