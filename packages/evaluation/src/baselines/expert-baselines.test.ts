import { Random } from '@d2dmoe/core';
import type { Model } from '@d2dmoe/models';
import type { TrainableRouter } from '@d2dmoe/routing';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { evaluateDense, evaluateRule } from '../evaluate.js';
import { realTokens, sentenceLengths, tinyBatches } from '../../testing/batches.js';
import { failOnLeaks } from '../../testing/leaks.js';
import { convertedTinyModel, tinyExpertSize } from '../../testing/models.js';
import { dot, referenceFeedForward } from '../../testing/reference-ffn.js';
import { disposeExperts, expertSites } from './expert-sites.js';
import { cumulativeShareBaseline, topKBaseline } from './fixed-rules.js';
import { moeficationBaseline, trainMoeficationRouters } from './moefication.js';
import { oracleBaseline, oracleSite, siteGrams } from './oracle.js';

beforeAll(() => tf.setBackend('cpu'));

const ffns = ['layers.0.ffn', 'layers.1.ffn'] as const;

describe.each(['tiny-bert', 'tiny-gpt2', 'tiny-gemma-gqa'] as const)('%s', (name) => {
  let model: Model;
  beforeEach(async () => {
    model = await convertedTinyModel(name);
  });
  afterEach(() => model.dispose());
  failOnLeaks();

  const batches = () => tinyBatches[name](9);
  const tokens = sentenceLengths.reduce((sum, length) => sum + length, 0);
  const experts = name === 'tiny-gpt2' ? 32 : 16;

  /** By site: share of (real token, expert) pairs that a choice in float64 makes. */
  function shareByLoop(choose: (name: string, x: number[]) => boolean[]): Record<string, number> {
    const shares: Record<string, number> = {};
    for (const { batch } of batches()) {
      const isReal = realTokens(batch);
      tf.tidy(() => {
        model.forward(batch, {
          substitute: (site, x) => {
            if (site.kind !== 'feedForward') return undefined;
            const ffn = referenceFeedForward(() => model.weights(site));
            const rows = x.arraySync().map((row, i) => {
              const chosen = choose(site.name, row);
              if (isReal(i)) {
                const share = chosen.filter(Boolean).length / experts / tokens;
                shares[site.name] = (shares[site.name] ?? 0) + share;
              }
              const hidden = ffn.hidden(row);
              return ffn.project(
                hidden.map((value, j) => (chosen[Math.floor(j / tinyExpertSize)] ? value : 0)),
              );
            });
            return tf.tensor2d(rows);
          },
        });
      });
      tf.dispose({ ...batch });
    }
    return shares;
  }

  function trueNorms(site: string, x: number[]): number[] {
    const ffn = referenceFeedForward(() => model.weights(model.site(site)));
    const hidden = ffn.hidden(x);
    return Array.from({ length: experts }, (_, i) =>
      ffn.norm(hidden, i * tinyExpertSize, (i + 1) * tinyExpertSize),
    );
  }

  test('the oracle runs the experts whose true norms reach the threshold', async () => {
    const { points } = await oracleBaseline({ model, batches, values: [0, 0.4] });
    const expected = shareByLoop((site, x) => {
      const norms = trueNorms(site, x);
      const greatest = Math.max(...norms);
      return norms.map((norm) => norm >= 0.4 * greatest);
    });
    const [all, some] = points;
    for (const ffn of ffns) expect(some?.executed[ffn]).toBeCloseTo(expected[ffn] as number, 9);
    const { score } = await evaluateDense(model, batches());
    expect(all?.score.value).toBeCloseTo(score.value, 4);
    // At equal experts it costs what our routers' selection costs.
    const ours = await evaluateRule(model, batches(), { rule: 'threshold', value: 0 });
    expect(all?.cost).toBeCloseTo(ours.cost, 12);
    expect(all?.convertedCost).toBeCloseTo(ours.convertedCost, 12);
    expect(all?.parametersRead).toBeCloseTo(ours.parametersRead, 12);
    expect(all?.executed).toEqual(ours.executed);
  });

  test('for as many experts no choice keeps more of a token’s norms than the oracle', () => {
    const sites = expertSites(model);
    const first = sites[0];
    if (!first) throw new Error('no site');
    const grams = siteGrams(model, first);
    const oracle = oracleSite(model, first, 0.5, grams);
    const random = new Random(3);
    const router = model.routers.get(first.site.name);
    const hidden = router?.hidden.arraySync() ?? [];
    const output = router?.output.arraySync() ?? [];
    tf.tidy(() => {
      const x = Array.from({ length: 20 }, () =>
        Array.from({ length: first.site.dIn }, () => random.normal()),
      );
      let selection: number[][] = [];
      oracle.run(tf.tensor2d(x), (_, selected) => {
        selection = selected.arraySync();
      });
      for (const [t, row] of x.entries()) {
        const norms = trueNorms(first.site.name, row);
        const activations = hidden.map((h) => Math.max(0, dot(h, row)));
        const predicted = output.map((o) => Math.abs(dot(o, activations)));
        const kept = (chosen: (i: number) => boolean) =>
          norms.reduce((sum, norm, i) => sum + (chosen(i) ? norm : 0), 0);
        const count = selection[t]?.reduce((sum, runs) => sum + runs, 0) as number;
        const best = predicted
          .map((_, i) => i)
          .toSorted((a, b) => (predicted[b] as number) - (predicted[a] as number))
          .slice(0, count);
        expect(count).toBeGreaterThan(0);
        expect(kept((i) => selection[t]?.[i] === 1)).toBeGreaterThanOrEqual(
          kept((i) => best.includes(i)) - 1e-5,
        );
      }
    });
    grams.dispose();
    disposeExperts(sites);
  });

  test('fixed k and cumulative share are the rules of our own routers', async () => {
    const topK = await topKBaseline({ model, batches, values: [0.01, 0.25] });
    expect(topK.points.map(({ executed }) => executed[ffns[1]])).toEqual([1 / experts, 0.25]);
    const quarter = await evaluateRule(model, batches(), { rule: 'topK', value: experts / 4 });
    expect(topK.points[1]?.cost).toBe(quarter.cost);
    expect(topK.points[1]?.score).toEqual(quarter.score);
    const share = await cumulativeShareBaseline({ model, batches, values: [0.7] });
    const rule = { rule: 'cumulativeShare', value: 0.7 } as const;
    const expected = await evaluateRule(model, batches(), rule);
    expect(share.points[0]?.cost).toBe(expected.cost);
    expect(Object.keys(share.points[0] ?? {})).toContain('value');
  });

  const training = () => ({
    model,
    train: (step: number) => {
      const [first, ...rest] = tinyBatches[name](100 + step);
      for (const { batch } of rest) tf.dispose({ ...batch });
      return first as NonNullable<typeof first>;
    },
    steps: 12,
    learningRate: 1e-2,
    random: new Random(5),
  });

  test('MoEfication costs what fixed k of its routers adds up to', async () => {
    const values = [0.125, 0.5];
    const { points } = await moeficationBaseline({ ...training(), batches, values });
    for (const [i, point] of points.entries()) {
      const rule = { rule: 'topK', value: experts * (values[i] as number) } as const;
      const ours = await evaluateRule(model, batches(), rule);
      expect(point.cost).toBeCloseTo(ours.cost, 12);
      expect(point.convertedCost).toBeCloseTo(ours.convertedCost, 12);
      for (const ffn of ffns) expect(point.executed[ffn]).toBe(values[i]);
    }
  });

  test('MoEfication’s routers learn, and the same seed learns the same', async () => {
    const values = async (seed: number, losses: number[] = []) => {
      const routers = await trainMoeficationRouters({
        ...training(),
        random: new Random(seed),
        onProgress: ({ metrics }) => metrics && losses.push(metrics['loss'] as number),
      });
      const router = routers.get(ffns[1]) as TrainableRouter;
      expect(router.hidden.shape).toEqual(model.routers.get(ffns[1])?.hidden.shape);
      const weights = router.output.dataSync().slice();
      for (const { hidden, output } of routers.values()) tf.dispose([hidden, output]);
      return weights;
    };
    const losses: number[] = [];
    const once = await values(5, losses);
    expect(await values(5)).toEqual(once);
    expect(await values(6)).not.toEqual(once);
    expect(losses).toHaveLength(12);
    expect(losses.at(-1)).toBeLessThan(losses[0] as number);
  });

  test('an abort in training leaves nothing behind', async () => {
    const controller = new AbortController();
    const reason = new Error('stopped');
    const running = moeficationBaseline({
      ...training(),
      batches,
      signal: controller.signal,
      onProgress: ({ step }) => step === 3 && controller.abort(reason),
    });
    await expect(running).rejects.toBe(reason);
  });

  test('a model without routers is refused', async () => {
    const routers = [...model.routers];
    model.routers.clear();
    await expect(oracleBaseline({ model, batches })).rejects.toThrowError(/no experts to choose/);
    await expect(trainMoeficationRouters(training())).rejects.toThrowError(/no experts to choose/);
    for (const [site, router] of routers) model.routers.set(site, router);
  });
});
