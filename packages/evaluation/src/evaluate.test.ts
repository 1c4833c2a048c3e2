import type { SelectionRule } from '@d2dmoe/kernels';
import { type Batch, dynamicSubstitute, type Model } from '@d2dmoe/models';
import { fileSource } from '@d2dmoe/safetensors/node';
import { openSafetensors } from '@d2dmoe/safetensors';
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { evaluateDense, evaluateRule } from './evaluate.js';
import type { EvaluationBatch } from './run-batches.js';
import { tinyBatches } from '../testing/batches.js';
import { failOnLeaks } from '../testing/leaks.js';
import { convertedTinyModel, fixture, tinyExpertSize, tinyRouterWidth } from '../testing/models.js';

beforeAll(() => tf.setBackend('wasm'));

const cases = [
  // Multiply-adds outside the FFNs of a sample of T tokens; two FFNs of 2 or 3 matrices of 32 × hidden.
  {
    name: 'tiny-vit',
    hidden: 64,
    batches: () => tinyBatches['tiny-vit'](10),
    lengths: [17, 17, 17, 17],
    matrices: 2,
    outside: (T: number) => 16 * 48 * 32 + 2 * (T * 4 * 32 * 32 + 2 * T * T * 32) + 32 * 5,
  },
  {
    name: 'tiny-bert',
    hidden: 64,
    batches: () => tinyBatches['tiny-bert'](9),
    lengths: [7, 4, 1, 6],
    matrices: 2,
    outside: (T: number) => 2 * (T * 4 * 32 * 32 + 2 * T * T * 32) + 32 * 32 + 32 * 4,
  },
  {
    name: 'tiny-gpt2',
    hidden: 128,
    batches: () => tinyBatches['tiny-gpt2'](9),
    lengths: [7, 4, 1, 6],
    matrices: 2,
    outside: (T: number) => 2 * (T * 4 * 32 * 32 + 2 * T * T * 32) + T * 32 * 60,
  },
  {
    hidden: 64,
    name: 'tiny-gemma-gqa', // 4 query heads and 2 key/value heads of 8
    batches: () => tinyBatches['tiny-gemma-gqa'](9),
    lengths: [7, 4, 1, 6],
    matrices: 3,
    outside: (T: number) => 2 * (T * (2 * 32 * 32 + 2 * 32 * 16) + 2 * T * T * 32) + T * 32 * 60,
  },
] as const;

describe.each(cases)('$name', ({ name, batches, lengths, hidden, matrices, outside }) => {
  let model: Model;
  beforeEach(async () => {
    model = await convertedTinyModel(name);
  });
  afterEach(() => model.dispose());
  failOnLeaks();

  const tokens = lengths.reduce<number>((sum, length) => sum + length, 0);
  const experts = hidden / tinyExpertSize;
  const ffn = matrices * 32 * hidden;
  const router = tinyRouterWidth * (32 + experts);
  const dense = lengths.reduce<number>(
    (sum, length) => sum + outside(length) + length * 2 * ffn,
    0,
  );

  test('the dense evaluation counts samples, tokens and multiply-adds', async () => {
    const evaluation = await evaluateDense(model, batches());
    expect(evaluation.samples).toBe(4);
    expect(evaluation.tokens).toBe(tokens);
    expect(evaluation.multiplyAdds).toBe(dense / 4);
  });

  test('τ = 0 runs every expert: the dense score at the dense cost and the routers', async () => {
    const { score } = await evaluateDense(model, batches());
    const point = await evaluateRule(model, batches(), { rule: 'threshold', value: 0 });
    expect(point.tau).toBe(0);
    expect(point.executed).toEqual({ 'layers.0.ffn': 1, 'layers.1.ffn': 1 });
    expect(point.meanExpertsPerToken).toBe(experts);
    expect(point.score.name).toBe(score.name);
    expect(point.score.value).toBeCloseTo(score.value, 4);
    expect(point.cost).toBe(1 + (tokens * 2 * router) / dense);
    expect(point.convertedCost).toBe(1 + router / ffn);
  });

  test.each<SelectionRule>([
    { rule: 'threshold', value: 0.3 },
    { rule: 'threshold', value: 0.8 },
    { rule: 'topK', value: 3 },
    { rule: 'cumulativeShare', value: 0.6 },
  ])('$rule $value counts what a loop over real tokens counts', async (rule) => {
    const counts = countByLoop(model, batches(), rule);
    const point = await evaluateRule(model, batches(), rule);
    const pairs = Object.values(counts).reduce((sum, count) => sum + count, 0);
    for (const site of ['layers.0.ffn', 'layers.1.ffn']) {
      expect(point.executed[site]).toBeCloseTo((counts[site] as number) / (tokens * experts), 12);
    }
    expect(point.meanExpertsPerToken).toBeCloseTo(pairs / (2 * tokens), 12);
    const executed = tokens * 2 * router + pairs * matrices * 32 * tinyExpertSize;
    expect(point.convertedCost).toBeCloseTo(executed / (tokens * 2 * ffn), 12);
    expect(point.cost).toBeCloseTo((dense - tokens * 2 * ffn + executed) / dense, 12);
  });

  test('each site may have a rule of its own', async () => {
    const point = await evaluateRule(model, batches(), ({ layer }) => ({
      rule: 'topK',
      value: layer + 1,
    }));
    expect(point.rule).toEqual({
      'layers.0.ffn': { rule: 'topK', value: 1 },
      'layers.1.ffn': { rule: 'topK', value: 2 },
    });
    expect(point.tau).toBeUndefined();
    expect(point.meanExpertsPerToken).toBe(1.5);
  });

  test('an abort ends it before the next batch', async () => {
    const controller = new AbortController();
    const reason = new Error('stopped');
    let opened = 0;
    function* endless() {
      for (;;) {
        opened++;
        yield* batches();
      }
    }
    setTimeout(() => controller.abort(reason), 20);
    await expect(evaluateDense(model, endless(), { signal: controller.signal })).rejects.toBe(
      reason,
    );
    expect(opened).toBeGreaterThan(0);
    opened = 0;
    const late = evaluateRule(
      model,
      endless(),
      { rule: 'threshold', value: 0.5 },
      { signal: controller.signal },
    );
    await expect(late).rejects.toBe(reason);
    expect(opened).toBe(0);
  });

  test('a batch that fails leaves no tensor behind', async () => {
    const [first] = batches();
    const broken = [{ ...(first as EvaluationBatch), labels: Int32Array.of(0) }];
    const rule = { rule: 'threshold', value: 0.5 } as const;
    await expect(evaluateRule(model, broken, rule)).rejects.toThrowError(/1 labels for/);
  });

  test('a model that has lost its routers has no dynamic cost, but a dense score', async () => {
    const routers = [...model.routers];
    model.routers.clear();
    const rule = { rule: 'threshold', value: 0.5 } as const;
    await expect(evaluateRule(model, [], rule)).rejects.toThrowError(/No layer of this model/);
    expect((await evaluateDense(model, batches())).samples).toBe(4);
    for (const [site, router] of routers) model.routers.set(site, router);
  });
});

/**
 * Executed (token, expert) pairs by site, computed from the inputs that a tap sees, in float64 and one token at a
 * time.
 */
function countByLoop(model: Model, batches: Iterable<EvaluationBatch>, rule: SelectionRule) {
  const counts: Record<string, number> = {};
  const substitute = dynamicSubstitute(model, { rule });
  for (const { batch } of batches) {
    const isReal = realTokens(batch);
    tf.tidy(() => {
      model.forward(batch, {
        substitute,
        tap: (site, { input }) => {
          const weights = model.routers.get(site.name);
          if (!weights) return;
          const hidden = weights.hidden.arraySync();
          const output = weights.output.arraySync();
          for (const [row, x] of input.arraySync().entries()) {
            if (!isReal(row)) continue;
            const activations = hidden.map((neuron) => Math.max(0, dot(neuron, x)));
            const norms = output.map((expert) => Math.abs(dot(expert, activations)));
            counts[site.name] = (counts[site.name] ?? 0) + selected(norms, rule);
          }
        },
      });
    });
    tf.dispose({ ...batch });
  }
  substitute.dispose();
  return counts;
}

function realTokens(batch: Batch): (row: number) => boolean {
  const mask = 'inputIds' in batch ? batch.attentionMask?.dataSync() : undefined;
  return (row) => mask === undefined || mask[row] === 1;
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}

/** How many experts a rule selects. */
function selected(norms: readonly number[], { rule, value }: SelectionRule): number {
  const sorted = norms.toSorted((a, b) => b - a);
  const [greatest] = sorted as [number];
  if (rule === 'topK') return value;
  if (greatest === 0) return 1;
  if (rule === 'threshold') return norms.filter((norm) => norm >= value * greatest).length;
  const total = norms.reduce((sum, norm) => sum + norm, 0);
  let sum = 0;
  let count = 0;
  while (sum < value * total) sum += sorted[count++] as number;
  return count;
}

describe('against logits recorded from PyTorch', () => {
  beforeAll(() => tf.setBackend('cpu'));
  failOnLeaks();

  test.each(['tiny-gpt2', 'tiny-gemma-gqa'] as const)('%s: the loss', async (name) => {
    const model = await convertedTinyModel(name);
    const recorded = await openSafetensors(
      await fileSource(fixture(name, 'reference.safetensors')),
    );
    const ids = await recorded.readInt32('a.input_ids'); // [2, 9]
    const logits = await recorded.readFloat32('a.logits'); // [2, 9, 60]
    await recorded.close();
    const labels = ids.map((_, i) => (i % 9 === 8 ? -1 : (ids[i + 1] as number)));
    let sum = 0;
    for (const [row, label] of labels.entries()) {
      if (label < 0) continue;
      const values = [...logits.subarray(row * 60, row * 60 + 60)];
      const total = values.reduce((all, value) => all + Math.exp(value), 0);
      sum += Math.log(total) - (values[label] as number);
    }
    const batch = { inputIds: tf.tensor2d(ids, [2, 9], 'int32') };
    const { score } = await evaluateDense(model, [{ batch, labels }]);
    expect(score.name).toBe('loss');
    expect(score.value).toBeCloseTo(sum / 16, 4);
    model.dispose();
  });

  test('tiny-bert: the accuracy of a padded batch', async () => {
    const model = await convertedTinyModel('tiny-bert');
    const path = fixture('tiny-bert', 'reference.safetensors');
    const recorded = await openSafetensors(await fileSource(path));
    const ids = await recorded.readInt32('padded.input_ids'); // [3, 11]
    const mask = await recorded.readInt32('padded.attention_mask');
    const logits = await recorded.readFloat32('padded.logits'); // [3, 4]
    await recorded.close();
    const best = [0, 1, 2].map((row) => {
      const values = [...logits.subarray(row * 4, row * 4 + 4)];
      return values.indexOf(Math.max(...values));
    });
    const evaluate = (labels: number[]) =>
      evaluateDense(model, [
        {
          batch: {
            inputIds: tf.tensor2d(ids, [3, 11], 'int32'),
            attentionMask: tf.tensor2d(mask, [3, 11], 'int32'),
          },
          labels: Int32Array.from(labels),
        },
      ]);
    const right = await evaluate(best);
    expect(right.score.value).toBe(1);
    expect(right.tokens).toBe(mask.reduce((sum, real) => sum + real, 0));
    const wrong = await evaluate(best.map((label, i) => (i === 1 ? (label + 1) % 4 : label)));
    expect(wrong.score.value).toBe(2 / 3);
    model.dispose();
  });
});
