import type { SelectionRule } from '@d2dmoe/kernels';
import { type Batch, dynamicSubstitute, type Model, type Site } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { tokenMask } from '../run-batches.js';
import { executedPerRow } from './executed-by-token.js';

/** What a converted model did with one sample. */
export interface ExecutedByPosition {
  /** Share of experts that each real position executes, in [0, 1], mean over the converted sites. */
  executed: readonly number[];
  /** The logits of the first row of the sample's output: a classifier's, [classes]. */
  logits: Float32Array;
}

/**
 * Where in each sample a converted model spends its experts: for a vision transformer the class token first and then
 * the patches row by row, for text its tokens. Padding, which comes last, is left out. The batch stays the caller's.
 *
 * @returns One per sample of the batch.
 * @throws D2DMoEError `ROUTER_MISSING` where the model is dense.
 */
export async function executedByPosition(
  model: Model,
  batch: Batch,
  rule: SelectionRule | ((site: Site) => SelectionRule),
): Promise<ExecutedByPosition[]> {
  const shares: tf.Tensor1D[] = [];
  const substitute = dynamicSubstitute(model, {
    rule,
    onSelection: (_, selection) =>
      shares.push(tf.div(executedPerRow(selection), selection.shape[1])),
  });
  const { mask, executed, logits } = tf.tidy(() => {
    const output = model.forward(batch, { substitute }).logits;
    return {
      mask: tokenMask(model.shape, batch),
      executed: tf.mean<tf.Tensor1D>(tf.stack(shares), 0),
      logits: tf.clone(output),
    };
  });
  try {
    const [samples, positions] = mask.shape;
    const lengths = (await mask.data()) as Float32Array;
    const figures = (await executed.data()) as Float32Array;
    const scores = (await logits.data()) as Float32Array;
    const classes = logits.shape.at(-1) as number;
    return Array.from({ length: samples }, (_, i) => {
      const isReal = (j: number) => lengths[i * positions + j] === 1;
      const own = figures.subarray(i * positions, (i + 1) * positions);
      const first = (i * scores.length) / samples;
      return {
        executed: Array.from(own).filter((_share, j) => isReal(j)),
        logits: scores.slice(first, first + classes),
      };
    });
  } finally {
    substitute.dispose();
    tf.dispose([mask, executed, logits]);
  }
}
