import { D2DMoEError, Random } from '@d2dmoe/core';
import { dynamicSubstitute, type Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { failOnLeaks } from '../../testing/leaks.js';
import { convertedTinyModel, tinyExpertSize } from '../../testing/models.js';
import { executedByPosition } from './executed-by-position.js';
import { executedByToken, summarizeExecuted } from './executed-by-token.js';
import { expectedDensities } from './expected-densities.js';
import { routerError } from './router-error.js';
import { timeForward } from './time-forward.js';

const rule = { rule: 'threshold', value: 0.3 } as const;
const length = 7;
/** Real tokens of each sample of each batch. */
const lengths = [
  [7, 3],
  [5, 7],
];

let model: Model;
beforeAll(async () => {
  await tf.setBackend('cpu');
  model = await convertedTinyModel('tiny-bert');
});
afterAll(() => model.dispose());

function batchOf(own: readonly number[], seed: number) {
  const random = new Random(seed);
  const ids = Int32Array.from({ length: own.length * length }, () => random.integer(60));
  const mask = own.flatMap((real) => Array.from({ length }, (_, i) => (i < real ? 1 : 0)));
  const shape: [number, number] = [own.length, length];
  return {
    batch: {
      inputIds: tf.tensor2d(ids, shape, 'int32'),
      attentionMask: tf.tensor2d(mask, shape, 'int32'),
    },
    labels: new Int32Array(own.length),
  };
}

function* batches() {
  for (const [seed, own] of lengths.entries()) yield batchOf(own, seed);
}

/** Per batch and site: the selection [N][n], read back. */
async function selections() {
  const found: Map<string, number[][]>[] = [];
  for (const { batch } of batches()) {
    const kept = new Map<string, tf.Tensor2D>();
    const substitute = dynamicSubstitute(model, {
      rule,
      onSelection: ({ name }, selection) => kept.set(name, tf.keep(tf.cast(selection, 'int32'))),
    });
    tf.tidy(() => void model.forward(batch, { substitute }));
    substitute.dispose();
    const bySite = new Map<string, number[][]>();
    for (const [site, tensor] of kept) bySite.set(site, await tensor.array());
    tf.dispose([...kept.values()]);
    tf.dispose({ ...batch });
    found.push(bySite);
  }
  return found;
}

const isReal = (batch: number, row: number) =>
  row % length < ((lengths[batch] as number[])[Math.floor(row / length)] as number);
const sum = (numbers: Iterable<number>) =>
  [...numbers].reduce((total, number) => total + number, 0);

describe('executed experts', () => {
  failOnLeaks();

  test('are counted for each real token, at every site', async () => {
    const found = await executedByToken(model, batches(), rule);
    const bySelection = await selections();
    expect(found.map(({ site }) => site)).toEqual(['layers.0.ffn', 'layers.1.ffn']);
    for (const { site, experts, histogram } of found) {
      const expected = Array<number>(experts + 1).fill(0);
      for (const [batch, bySite] of bySelection.entries()) {
        for (const [row, selected] of (bySite.get(site) as number[][]).entries()) {
          if (isReal(batch, row)) expected[sum(selected)] = (expected[sum(selected)] as number) + 1;
        }
      }
      expect(experts).toBe(64 / tinyExpertSize);
      expect(histogram).toEqual(expected);
      expect(sum(histogram)).toBe(sum(lengths.flat()));
    }
  });

  test('are summed up as mean, deviation and quantiles', () => {
    // 1 token runs none, 2 run one, 1 runs three.
    const { mean, deviation, quantiles } = summarizeExecuted({ histogram: [1, 2, 0, 1] });
    expect(mean).toBe(5 / 4);
    expect(deviation).toBeCloseTo(Math.sqrt((1.25 ** 2 + 2 * 0.25 ** 2 + 1.75 ** 2) / 4), 12);
    expect(quantiles).toEqual([0, 0, 1, 1, 3]);
  });

  test('are told by position, padding left out, with the logits of the dynamic model', async () => {
    const bySelection = await selections();
    const own = lengths[0] as number[];
    const { batch } = batchOf(own, 0);
    const found = await executedByPosition(model, batch, rule);
    const substitute = dynamicSubstitute(model, { rule });
    const logits = tf.tidy(() => model.forward(batch, { substitute }).logits);
    substitute.dispose();
    const expectedLogits = (await logits.array()) as number[][];
    tf.dispose([logits, ...Object.values(batch)]);
    const sites = [...(bySelection[0] as Map<string, number[][]>).values()];
    for (const [sample, { executed, logits: row }] of found.entries()) {
      const expected = Array.from({ length: own[sample] as number }, (_, i) => {
        const shares = sites.map((site) => {
          const selected = site[sample * length + i] as number[];
          return sum(selected) / selected.length;
        });
        return sum(shares) / shares.length;
      });
      expect(executed.length).toBe(expected.length);
      for (const [i, share] of executed.entries())
        expect(share).toBeCloseTo(expected[i] as number, 6);
      for (const [i, logit] of row.entries()) {
        expect(logit).toBeCloseTo((expectedLogits[sample] as number[])[i] as number, 5);
      }
    }
  });
});

describe('the routers’ error', () => {
  failOnLeaks();

  test('is that of a float64 computation from the layers’ own inputs', async () => {
    const found = await routerError(model, batches(), rule);
    for (const { site, relativeError, captured, attainable } of found) {
      const expected = await referenceError(site);
      expect(relativeError).toBeCloseTo(expected.relativeError, 4);
      expect(captured).toBeCloseTo(expected.captured, 4);
      expect(attainable).toBeCloseTo(expected.attainable, 4);
      expect(captured).toBeLessThanOrEqual(attainable + 1e-6);
    }
    expect(found.length).toBe(2);
  });

  test('captures all where every expert runs', async () => {
    for (const { captured, attainable } of await routerError(model, batches(), {
      rule: 'threshold',
      value: 0,
    })) {
      expect(captured).toBeCloseTo(1, 5);
      expect(attainable).toBeCloseTo(1, 5);
    }
  });

  test('needs routers', async () => {
    const routers = [...model.routers];
    model.routers.clear();
    const failed = routerError(model, [], rule);
    await expect(failed).rejects.toSatisfy(
      (error) => D2DMoEError.isInstance(error) && error.code === 'ROUTER_MISSING',
    );
    for (const [site, router] of routers) model.routers.set(site, router);
  });
});

/** The same by plain loops over what a tap of the dense model sees. */
async function referenceError(site: string) {
  const { hidden: first, output: second } = model.routers.get(site) as NonNullable<
    ReturnType<typeof model.routers.get>
  >;
  const [w1, w2] = [await first.array(), await second.array()];
  const weights = tf.tidy(() => tf.keep(tf.clone(model.weights(model.site(site)).down)));
  const down = await weights.array();
  weights.dispose();
  let [error, square, captured, attainable, total] = [0, 0, 0, 0, 0];
  for (const [number, { batch }] of [...batches()].entries()) {
    const seen: tf.Tensor2D[] = [];
    tf.tidy(() => {
      model.forward(batch, {
        tap: ({ name }, { input, hidden }) => {
          if (name === site)
            seen.push(tf.keep(tf.clone(input)), tf.keep(tf.clone(hidden as tf.Tensor2D)));
        },
      });
    });
    const [inputs, hiddens] = [
      await (seen[0] as tf.Tensor2D).array(),
      await (seen[1] as tf.Tensor2D).array(),
    ];
    tf.dispose(seen);
    tf.dispose({ ...batch });
    for (const [row, x] of inputs.entries()) {
      if (!isReal(number, row)) continue;
      const h = w1.map((weight) => Math.max(0, sum(weight.map((w, i) => w * (x[i] as number)))));
      const predicted = w2.map((weight) =>
        Math.abs(sum(weight.map((w, i) => w * (h[i] as number)))),
      );
      const norms = predicted.map((_, expert) => {
        const output = (down[0] as number[]).map((_column, column) =>
          sum(
            Array.from({ length: tinyExpertSize }, (_neuron, i) => {
              const neuron = expert * tinyExpertSize + i;
              return (
                ((hiddens[row] as number[])[neuron] as number) *
                ((down[neuron] as number[])[column] as number)
              );
            }),
          ),
        );
        return Math.hypot(...output);
      });
      const bound = rule.value * Math.max(...predicted);
      const selected = predicted.map((norm) => norm >= bound);
      const count = selected.filter(Boolean).length;
      error += sum(predicted.map((p, i) => (p - (norms[i] as number)) ** 2));
      square += sum(norms.map((norm) => norm ** 2));
      captured += sum(norms.filter((_, i) => selected[i]));
      attainable += sum(norms.toSorted((a, b) => b - a).slice(0, count));
      total += sum(norms);
    }
  }
  return {
    relativeError: Math.sqrt(error / square),
    captured: captured / total,
    attainable: attainable / total,
  };
}

describe('expectedDensities', () => {
  test('gives the share of pairs that a rule selects, by site', async () => {
    const { batch } = batchOf([7, 7], 0);
    const { numTensors } = tf.memory();
    const all = await expectedDensities(model, batch, { rule: 'threshold', value: 0 });
    const sites = [...all.keys()];
    expect(sites.length).toBeGreaterThan(1);
    expect([...all.values()]).toEqual(sites.map(() => 1));
    const experts = (name: string) => model.site(name).hidden / tinyExpertSize;
    const one = await expectedDensities(model, batch, ({ name }) => ({
      rule: 'topK',
      value: name === sites[0] ? 1 : 2,
    }));
    for (const [i, name] of sites.entries()) {
      expect(one.get(name)).toBeCloseTo((i === 0 ? 1 : 2) / experts(name), 6);
    }
    expect(tf.memory().numTensors).toBe(numTensors);
    tf.dispose(Object.values(batch));
  });
});

describe('timing', () => {
  failOnLeaks();

  test('gives a median between the fastest and the slowest run, for each rule', async () => {
    const { batch } = batchOf([7, 7], 0);
    const options = { dense: model, converted: model, batch, rules: [rule, rule], runs: 3 };
    const { dense, rules } = await timeForward(options);
    expect(rules.length).toBe(2);
    for (const { median, least, greatest } of [dense, ...rules]) {
      expect(least).toBeGreaterThan(0);
      expect(median).toBeGreaterThanOrEqual(least);
      expect(greatest).toBeGreaterThanOrEqual(median);
    }
    const reason = new Error('enough');
    await expect(timeForward({ ...options, signal: AbortSignal.abort(reason) })).rejects.toBe(
      reason,
    );
    tf.dispose(Object.values(batch));
  });
});
