import '@tensorflow/tfjs-layers';
import { Random } from '@d2dmoe/core';
import {
  DynamicKExperts,
  dynamicKExperts,
  type FeedForwardWeights,
  packExperts,
  softmaxCrossEntropy,
} from '@d2dmoe/kernels';
import { initModel } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import {
  type ExpertsWorkload,
  type FeedForwardShape,
  feedForwardValues,
  productOperands,
  type ProductWorkload,
  type Results,
  selectionMasks,
  trainingBatch,
  trainingConfig,
  type Workload,
} from '../workload.js';
import type { Prepared } from './peer.js';

/** A way to change a model's parameters by their gradients. */
export type Optimizer = (gradients: Record<string, tf.Tensor>) => void;

/** What differs between tfjs's wasm backend as it comes and with our kernels. */
export interface TfjsFlavour {
  /** Whether an FFN's up and gate projections are kept as [dModel, hidden], which tfjs's own product likes better. */
  transposedUp: boolean;
  optimizer: (params: ReadonlyMap<string, tf.Variable>) => Optimizer;
}

/** The workloads as calls of tfjs on its current backend. */
export function prepareTfjs({
  transposedUp,
  optimizer,
}: TfjsFlavour): (workload: Workload) => Promise<Prepared> {
  // One set of weights for the workloads of an FFN, as in a model.
  const feedForwards = new Map<string, FeedForward>();
  const feedForwardOf = ({ rows, dModel, hidden, gated }: FeedForwardShape) => {
    const shape = { rows, dModel, hidden, gated };
    const key = JSON.stringify(shape);
    const feedForward = feedForwards.get(key) ?? makeFeedForward(shape, transposedUp);
    feedForwards.set(key, feedForward);
    return feedForward;
  };
  return async (workload) => {
    switch (workload.kind) {
      case 'product':
        return product(workload);
      case 'feedForward':
        return dense(feedForwardOf(workload), transposedUp);
      case 'trainingStep':
        return trainingStep(optimizer);
      default:
        return experts(feedForwardOf(workload), workload);
    }
  };
}

function output(op: () => tf.Tensor): Prepared {
  const run = () => valuesOf(op);
  return { run, results: () => ({ output: run() }) };
}

/** An op's values. They are read outside of the tidy, which would look for tensors among them one by one. */
function valuesOf(op: () => tf.Tensor): Float32Array {
  const tensor = tf.tidy(op);
  const values = tensor.dataSync<'float32'>();
  tensor.dispose();
  return values;
}

function product(workload: ProductWorkload): Prepared {
  const values = productOperands(workload);
  const a = tf.tensor(values.a, [...workload.a]);
  const b = tf.tensor(values.b, [...workload.b]);
  return output(() => tf.matMul(a, b, workload.transposeA, workload.transposeB));
}

interface FeedForward {
  x: tf.Tensor2D;
  weights: FeedForwardWeights;
}

function makeFeedForward(shape: FeedForwardShape, transposedUp: boolean): FeedForward {
  const { rows, dModel, hidden } = shape;
  const { x, up, upBias, gate, down, downBias } = feedForwardValues(shape);
  const upward = (values: Float32Array) => {
    const stored = tf.tensor2d(values, [hidden, dModel]);
    if (!transposedUp) return stored;
    const transposed = tf.transpose(stored);
    stored.dispose();
    return transposed;
  };
  return {
    x: tf.tensor2d(x, [rows, dModel]),
    weights: {
      activation: 'relu',
      up: upward(up),
      down: tf.tensor2d(down, [hidden, dModel]),
      ...(gate && { gate: upward(gate) }),
      ...(upBias && { upBias: tf.tensor1d(upBias) }),
      ...(downBias && { downBias: tf.tensor1d(downBias) }),
    },
  };
}

/** The dense FFN in the fewest ops that tfjs has for it: products with bias and ReLU fused. */
function dense({ x, weights }: FeedForward, transposedUp: boolean): Prepared {
  const { up, upBias, gate, down, downBias } = weights;
  const project = (b: tf.Tensor2D, bias: tf.Tensor | undefined, activation: 'relu' | 'linear') =>
    tf.fused.matMul({
      a: x,
      b,
      transposeB: !transposedUp,
      activation,
      ...(bias && { bias }),
    });
  return output(() => {
    const hidden = gate
      ? tf.mul(project(gate, undefined, 'relu'), project(up, undefined, 'linear'))
      : project(up, upBias, 'relu');
    return tf.fused.matMul({
      a: hidden,
      b: down,
      ...(downBias && { bias: downBias }),
    });
  });
}

function experts({ x, weights }: FeedForward, workload: ExpertsWorkload): Prepared {
  if (tf.getKernel(DynamicKExperts, tf.getBackend()) === undefined) {
    throw new Error(`The ${tf.getBackend()} backend has no ${DynamicKExperts} kernel here.`);
  }
  const { rows, hidden, expertSize, fraction } = workload;
  const packed = packExperts(weights, expertSize);
  const selections = selectionMasks(workload).map((mask) =>
    tf.tensor2d(mask, [rows, hidden / expertSize], 'bool'),
  );
  const runWith = (selection: tf.Tensor2D) =>
    valuesOf(() => dynamicKExperts(x, selection, packed, { expectedDensity: fraction }));
  let next = 0;
  return {
    run: () => runWith(selections[next++ % selections.length] as tf.Tensor2D),
    results: () => Object.fromEntries(selections.map((mask, i) => [`mask ${i}`, runWith(mask)])),
  };
}

/** One step of training, loss read back. All parameters are trained, on the same batch again and again. */
function trainingStep(makeOptimizer: TfjsFlavour['optimizer']): Prepared {
  const model = initModel(trainingConfig, new Random(5));
  const params = [...model.params.values()];
  const names = new Map(Array.from(model.params, ([name, { name: id }]) => [id, name]));
  const optimizer = makeOptimizer(model.params);
  const batch = trainingBatch();
  const inputIds = tf.tensor2d(batch.ids, batch.shape, 'int32');
  const labels = tf.tensor1d(batch.labels, 'int32');
  const loss = () => {
    const { logits } = model.forward({ inputIds });
    const rows = tf.reshape<tf.Rank.R2>(logits, [-1, trainingConfig.vocab_size]);
    return tf.mean<tf.Scalar>(softmaxCrossEntropy(rows, labels));
  };
  const step = (see?: (gradients: Record<string, tf.Tensor>) => void) =>
    valuesOf(() => {
      const { value, grads } = tf.variableGrads(loss, params);
      const gradients = Object.fromEntries(
        Object.entries(grads).map(([id, gradient]) => [names.get(id) as string, gradient]),
      );
      see?.(gradients);
      optimizer(gradients);
      return value;
    });
  return {
    run: () => step(),
    results: () => {
      const results: Results = {};
      const record = (prefix: string, tensors: Iterable<[string, tf.Tensor]>) => {
        for (const [name, tensor] of tensors) {
          results[prefix + name] = tensor.dataSync<'float32'>().slice();
        }
      };
      record('before:', model.params);
      results['loss'] = step((gradients) => record('gradient:', Object.entries(gradients)));
      record('after:', model.params);
      return results;
    },
  };
}
