import { D2DMoEError, type Random } from '@d2dmoe/core';
import { Adam, linear } from '@d2dmoe/kernels';
import type { Batch, Model } from '@d2dmoe/models';
import { warmupCosine } from '@d2dmoe/routing';
import * as tf from '@tensorflow/tfjs-core';
import { scoredRows } from '../score.js';
import { type TrainingOptions, trainSteps } from './training.js';

/**
 * An internal classifier behind a layer: a ReLU layer on the standardised first token, then the classes, from it and
 * from the previous head's logits (cascade). Its answer is the ensemble of all heads so far: the geometric mean of
 * their probabilities with a weight for each head and a factor for each class.
 */
export type ExitHead = {
  /** [width, dModel] */
  hidden: tf.Variable<tf.Rank.R2>;
  /** [width] */
  hiddenBias: tf.Variable<tf.Rank.R1>;
  /** [classes, width], and from the second head on [classes, width + classes] */
  output: tf.Variable<tf.Rank.R2>;
  /** [classes] */
  outputBias: tf.Variable<tf.Rank.R1>;
  /** [1, heads so far], the ensemble's exponents */
  exponents: tf.Variable<tf.Rank.R2>;
  /** [1, classes], logarithms of the ensemble's factors */
  factors: tf.Variable<tf.Rank.R2>;
};

/**
 * Trains internal classifiers as in ZTW (Wołczyk et al. 2021, "Zero Time Waste", arXiv 2106.05409) behind each layer
 * but the last, of width dModel; the model is frozen. Each head learns by its own cross-entropy, with no gradient
 * through the cascade. The ensembles, which the paper trains in a phase of their own, learn in the same steps, with no
 * gradient into the heads.
 *
 * @returns The heads from the first layer on; the caller disposes them by `tf.dispose`.
 * @throws D2DMoEError `EVALUATION_NOT_CLASSIFIER` for a language model or one of a single layer; `EVALUATION_LABELS`
 * where a batch's labels do not fit.
 */
export async function trainEarlyExits(options: TrainingOptions): Promise<ExitHead[]> {
  const { model, steps, learningRate = 1e-3, random } = options;
  const heads = createHeads(model, random);
  const parameters = new Map(
    heads.flatMap((head, i) =>
      Object.entries(head).map(([name, variable]) => [`${i}.${name}`, variable] as const),
    ),
  );
  const adam = new Adam(parameters);
  try {
    await trainSteps('early exits', options, ({ batch, labels }) =>
      tf.tidy(() => {
        const [samples] = ('inputIds' in batch ? batch.inputIds : batch.pixelValues).shape;
        const classes = model.shape.outputs;
        const rows = tf.tensor1d(scoredRows(labels, samples, classes), 'int32');
        const features = exitFeatures(model, batch).features.map((x) => tf.gather(x, rows));
        const known = tf.gather(tf.tensor1d(labels, 'int32'), rows);
        const { loss, gradients } = exitGradients(features, known, heads);
        adam.step(gradients, warmupCosine(learningRate, steps, adam.steps));
        return loss.dataSync()[0] as number;
      }),
    );
  } catch (error) {
    tf.dispose(heads);
    throw error;
  } finally {
    adam.dispose();
  }
  return heads;
}

function createHeads({ shape, task }: Pick<Model, 'shape' | 'task'>, random: Random): ExitHead[] {
  if (task === 'text-generation' || shape.layers < 2) {
    throw new D2DMoEError(
      'EVALUATION_NOT_CLASSIFIER',
      `Early exits need a classifier of at least 2 layers, but this model is for ${task} and has ${shape.layers}.`,
    );
  }
  const { dModel: width, outputs: classes, layers } = shape;
  const variable = <R extends tf.Rank>(tensor: () => tf.Tensor<R>) =>
    tf.tidy(() => tf.variable(tensor()));
  /** As PyTorch's Linear layers start. */
  const matrix = (generator: Random, outputs: number, inputs: number) => {
    const draw = () => (2 * generator.uniform() - 1) / Math.sqrt(inputs);
    const values = Float32Array.from({ length: outputs * inputs }, draw);
    return variable(() => tf.tensor2d(values, [outputs, inputs]));
  };
  return Array.from({ length: layers - 1 }, (_, i) => {
    const generator = random.fork(`head ${i}`);
    return {
      hidden: matrix(generator, width, width),
      hiddenBias: variable(() => tf.zeros<tf.Rank.R1>([width])),
      output: matrix(generator, classes, width + (i > 0 ? classes : 0)),
      outputBias: variable(() => tf.zeros<tf.Rank.R1>([classes])),
      exponents: variable(() => tf.div<tf.Tensor2D>(tf.ones([1, i + 1]), i + 1)),
      factors: variable(() => tf.zeros<tf.Rank.R2>([1, classes])),
    };
  });
}

/** Multiply-adds of a head, and its matrices' parameters. The ensemble, a weighted sum, is no matrix product. */
export function exitHeadCost({ hidden, output }: ExitHead): number {
  return hidden.size + output.size;
}

/**
 * What heads see: the first token behind each layer but the last, standardised to mean 0 and variance 1. Call it in a
 * tidy.
 *
 * @returns features, layers − 1 of [B, dModel], and the model's own logits [B, classes].
 */
export function exitFeatures(
  model: Pick<Model, 'forward'>,
  batch: Batch,
): { features: tf.Tensor2D[]; logits: tf.Tensor2D } {
  const { logits, hiddenStates } = model.forward(batch, { hiddenStates: true });
  const features = (hiddenStates as tf.Tensor3D[]).slice(1, -1).map((states) => {
    const [samples, , width] = states.shape;
    const first = tf.reshape(tf.slice3d(states, [0, 0, 0], [samples, 1, width]), [samples, width]);
    const centred = tf.sub(first, tf.mean(first, 1, true));
    const variance = tf.mean(tf.square(centred), 1, true);
    return tf.mul<tf.Tensor2D>(centred, tf.rsqrt(tf.add(variance, 1e-6)));
  });
  return { features, logits: logits as tf.Tensor2D };
}

/** One head's values on a batch. */
interface HeadValues {
  /** [B, width], after the ReLU. */
  hidden: tf.Tensor2D;
  /** [B, width + classes], what `output` is multiplied with. */
  joined: tf.Tensor2D;
  /** [B, classes], logarithms of its own probabilities. */
  own: tf.Tensor2D;
  /** [heads so far, B · classes], those of all heads so far. */
  all: tf.Tensor2D;
  /** [B, classes], logarithms of the ensemble's. */
  ensemble: tf.Tensor2D;
}

/** Runs the heads one after another. Call it in a tidy. */
export function runHeads(
  features: readonly tf.Tensor2D[],
  heads: readonly ExitHead[],
): HeadValues[] {
  const values: HeadValues[] = [];
  const flat: tf.Tensor1D[] = [];
  let previous: tf.Tensor2D | undefined;
  for (const [i, head] of heads.entries()) {
    const hidden = tf.relu(linear(features[i] as tf.Tensor2D, head.hidden, head.hiddenBias));
    const joined = previous ? tf.concat2d([hidden, previous], 1) : hidden;
    const logits = linear(joined, head.output, head.outputBias);
    const own = tf.logSoftmax(logits);
    flat.push(tf.reshape(own, [-1]));
    const all = tf.stack(flat) as tf.Tensor2D;
    const sum = tf.reshape<tf.Rank.R2>(tf.matMul(head.exponents, all), own.shape);
    const ensemble = tf.logSoftmax(tf.add<tf.Tensor2D>(sum, head.factors));
    values.push({ hidden, joined, own, all, ensemble });
    previous = logits;
  }
  return values;
}

/**
 * The heads' mean cross-entropy, own and ensembles', and its gradient by Adam's parameter names, written out; within
 * a head nothing flows back into what it took from earlier ones. Call it in a tidy.
 *
 * @param labels int32 [B]
 */
export function exitGradients(
  features: readonly tf.Tensor2D[],
  labels: tf.Tensor1D,
  heads: readonly ExitHead[],
): { loss: tf.Scalar; gradients: Record<string, tf.Tensor> } {
  const samples = labels.size;
  const gradients: Record<string, tf.Tensor> = {};
  const losses: tf.Tensor[] = [];
  const columnSum = (x: tf.Tensor2D) => tf.sum<tf.Tensor1D>(x, 0);
  for (const [i, { hidden, joined, own, all, ensemble }] of runHeads(features, heads).entries()) {
    const head = heads[i] as ExitHead;
    const [width] = head.hidden.shape;
    const [classes] = head.output.shape;
    const target = tf.cast(tf.oneHot(labels, classes), 'float32');
    const crossEntropy = (logarithms: tf.Tensor2D) =>
      tf.neg(tf.div(tf.sum(tf.mul(logarithms, target)), samples));
    const gradient = (logarithms: tf.Tensor2D) =>
      tf.div<tf.Tensor2D>(tf.sub(tf.exp(logarithms), target), samples);
    losses.push(crossEntropy(own), crossEntropy(ensemble));

    const dLogits = gradient(own);
    const fromHidden = tf.slice2d(head.output, [0, 0], [classes, width]);
    const dHidden = tf.mul<tf.Tensor2D>(tf.matMul(dLogits, fromHidden), tf.step(hidden));
    const dEnsemble = gradient(ensemble);
    gradients[`${i}.hidden`] = tf.matMul(dHidden, features[i] as tf.Tensor2D, true, false);
    gradients[`${i}.hiddenBias`] = columnSum(dHidden);
    gradients[`${i}.output`] = tf.matMul(dLogits, joined, true, false);
    gradients[`${i}.outputBias`] = columnSum(dLogits);
    gradients[`${i}.exponents`] = tf.matMul(tf.reshape(dEnsemble, [1, -1]), all, false, true);
    gradients[`${i}.factors`] = tf.sum(dEnsemble, 0, true);
  }
  return { loss: tf.mean(tf.stack(losses)), gradients };
}
