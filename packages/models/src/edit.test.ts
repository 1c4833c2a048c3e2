import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-layers';
import * as tf from '@tensorflow/tfjs-core';
import { expect, test } from 'vitest';
import { modelTypes, tinyBatch, tinyModel } from '../testing/tiny.js';

test.each(modelTypes)(
  '%s: an edit stands between an FFN’s neurons and its down projection',
  async (type) => {
    await tf.setBackend('cpu');
    const model = tinyModel(type);
    const batch = tinyBatch(type);
    const logits = (options: Parameters<typeof model.forward>[1]) =>
      tf.tidy(() => [...model.forward(batch, options).logits.dataSync<'float32'>()]);
    const dense = logits({});
    expect(logits({ edit: () => undefined })).toEqual(dense);
    expect(logits({ edit: (_site, _x, hidden) => tf.mul(hidden, 1) })).toEqual(dense);

    // Without any neuron an FFN gives its bias, which a substitute can give as well.
    const seen: string[] = [];
    const silenced = logits({
      edit: (site, x, hidden) => {
        expect(x.shape).toEqual([hidden.shape[0], site.dIn]);
        expect(hidden.shape[1]).toBe(site.hidden);
        seen.push(site.name);
        return tf.zerosLike(hidden);
      },
    });
    const ffns = model.sites.filter(({ kind }) => kind === 'feedForward');
    expect(seen).toEqual(ffns.map(({ name }) => name));
    const biases = logits({
      substitute: (site, x) => {
        if (site.kind !== 'feedForward') return undefined;
        const zeros = tf.zeros<tf.Rank.R2>([x.shape[0], site.dOut]);
        const { downBias } = model.weights(site);
        return downBias ? tf.add(zeros, downBias) : zeros;
      },
    });
    expect(silenced).toEqual(biases);
    expect(silenced).not.toEqual(dense);
    tf.dispose({ ...batch });
    model.dispose();
  },
);
