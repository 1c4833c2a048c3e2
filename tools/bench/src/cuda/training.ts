import '@tensorflow/tfjs-layers';
import type { CudaBackend } from '@d2dmoe/backend-cuda';
import { Adam, clippingScale, softmaxCrossEntropy } from '@d2dmoe/kernels';
import { loadModel } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import { type Bar, holds } from '../bars.js';
import { failedRow, type Row } from '../row.js';
import { summarize, type Times } from '../statistics.js';
import { settle } from './torch.js';

/** How a language model is trained for the clock. */
export interface TrainingCase {
  /** Sequences of a batch. */
  batch: number;
  /** Tokens of a sequence. */
  positions: number;
  /** Steps that are timed, after `warmUp` ones that are not. */
  steps: number;
  warmUp: number;
}

/** The case that has a bar, for the checkpoint gpt2-mini-peps. */
export const trainingCase: TrainingCase = { batch: 48, positions: 256, steps: 60, warmUp: 20 };

const bar: Bar = { atMost: 2 };
const learningRate = 1e-4;
const gradientNorm = 1;
/** How far apart the first losses of two peers may be, relatively: both multiply in bf16. */
const LOSS_TOLERANCE = 1e-2;

/** What peers/torch_training.py prints. */
export interface TorchTraining {
  step: Times;
  /** Loss of the first step. */
  loss: number;
}

/** What a number of steps took. */
export interface TrainingMeasurement {
  /** From the call to the loss in JavaScript, milliseconds. */
  step: Times;
  /** Until everything was enqueued. */
  host: Times;
  /** On the device, from the first to the last work of a step. */
  device: Times;
  /** Losses of the first and of the last step. */
  loss: { first: number; last: number };
  /** Memory after the warm-up and at the end. */
  mebibytes: Record<'device' | 'resident', { start: number; end: number }>;
  tensors: { start: number; end: number };
}

/**
 * Token ids [batch, positions] and, for each, the next one: numbers that a peer in another language gets alike. Column
 * `positions` of the same pattern follows a sequence's last token.
 */
export function trainingTokens(
  { batch, positions }: Pick<TrainingCase, 'batch' | 'positions'>,
  vocabulary: number,
): { ids: Int32Array; labels: Int32Array } {
  const token = (row: number, column: number) => (row * 7919 + column * 104_729) % vocabulary;
  const at = (shift: number) =>
    Int32Array.from({ length: batch * positions }, (_, i) =>
      token(Math.floor(i / positions), (i % positions) + shift),
    );
  return { ids: at(0), labels: at(1) };
}

/**
 * Times training steps of a checkpoint of a language model, all parameters by Adam with gradients clipped to a norm of
 * 1, on one batch, products in bf16. The loss of every step is read back.
 *
 * @param folder Of the checkpoint.
 */
export async function timeTraining(
  backend: CudaBackend,
  folder: string,
  { batch, positions, steps, warmUp }: TrainingCase = trainingCase,
): Promise<TrainingMeasurement> {
  const before = backend.precision;
  backend.precision = 'bf16';
  const model = await loadModel(folder);
  const adam = new Adam(model.params, { learningRate });
  const { ids, labels } = trainingTokens({ batch, positions }, model.shape.outputs);
  const names = new Map(Array.from(model.params, ([name, { name: id }]) => [id, name]));
  const step = (): tf.Scalar => {
    const inputIds = tf.tensor2d(ids, [batch, positions], 'int32');
    const { value, grads } = tf.variableGrads(() => {
      const { logits } = model.forward({ inputIds });
      const rows = tf.reshape<tf.Rank.R2>(logits, [ids.length, model.shape.outputs]);
      return tf.mean<tf.Scalar>(softmaxCrossEntropy(rows, tf.tensor1d(labels, 'int32')));
    }, [...model.params.values()]);
    const scale = clippingScale(Object.values(grads), gradientNorm);
    const gradients = Object.entries(grads).map(([id, gradient]) => [names.get(id), gradient]);
    adam.step(Object.fromEntries(gradients) as Record<string, tf.Tensor>, learningRate, scale);
    tf.dispose([inputIds, grads, scale]);
    return value;
  };
  const read = async (loss: tf.Scalar) => {
    const [value] = await loss.data<'float32'>();
    loss.dispose();
    return value as number;
  };
  const memory = () => ({
    device: backend.memory().numBytesInGPUAllocated / 2 ** 20,
    resident: process.memoryUsage().rss / 2 ** 20,
    tensors: tf.memory().numTensors,
  });
  try {
    const first = await read(step());
    for (let i = 1; i < warmUp; i++) await read(step());
    const start = memory();
    const stepTimes: number[] = [];
    const hostTimes: number[] = [];
    let last = first;
    for (let i = 0; i < steps; i++) {
      const begin = performance.now();
      const loss = step();
      hostTimes.push(performance.now() - begin);
      last = await read(loss);
      stepTimes.push(performance.now() - begin);
    }
    const end = memory();
    const deviceTimes: number[] = [];
    for (let i = 0; i < 10; i++) {
      const { kernelMs } = await backend.time(() => step().dispose());
      deviceTimes.push(Number(kernelMs));
    }
    const change = (of: 'device' | 'resident' | 'tensors') => ({ start: start[of], end: end[of] });
    return {
      step: summarize(stepTimes),
      host: summarize(hostTimes),
      device: summarize(deviceTimes),
      loss: { first, last },
      mebibytes: { device: change('device'), resident: change('resident') },
      tensors: change('tensors'),
    };
  } finally {
    adam.dispose();
    model.dispose();
    backend.precision = before;
  }
}

/**
 * The training step's row: its time over torch's. Without torch there is our time alone, and the row does not hold.
 *
 * @param folder Of the checkpoint gpt2-mini-peps; without it there is no row.
 * @param torch What peers/torch_training.py prints.
 */
export async function trainingRows(
  backend: CudaBackend,
  folder: string | undefined,
  torch: (folder: string) => Promise<unknown>,
  wanted: (name: string) => boolean,
): Promise<Row[]> {
  const { batch, positions } = trainingCase;
  const plan = {
    name: `training step of gpt2-mini-peps, ${batch} × ${positions}: cuda / torch`,
    bar,
  };
  if (!wanted(plan.name)) return [];
  if (folder === undefined) {
    console.log(`left out ${plan.name}: no --checkpoint`);
    return [];
  }
  try {
    const peer = await settle(() => torch(folder));
    const measured = await timeTraining(backend, folder);
    const { step, host, device, loss, mebibytes, tensors } = measured;
    if (!(loss.last < loss.first)) {
      throw new Error(`The loss did not fall: it was ${loss.first}, and is ${loss.last}.`);
    }
    if (tensors.end !== tensors.start) {
      throw new Error(
        `Steps leave tensors behind: there were ${tensors.start}, then ${tensors.end}.`,
      );
    }
    const ours = { cuda: step, 'cuda: host': host, 'cuda: device': device };
    if ('error' in peer) return [{ ...failedRow(plan, peer.error), times: ours }];
    const theirs = peer.value as TorchTraining;
    const difference = Math.abs(loss.first / theirs.loss - 1);
    if (!(difference <= LOSS_TOLERANCE)) {
      throw new Error(`The first loss is ${loss.first}, torch's ${theirs.loss}.`);
    }
    const value = step.median / theirs.step.median;
    const row: Row = {
      ...plan,
      value,
      holds: holds(bar, value),
      times: { torch: theirs.step, ...ours },
      mebibytes: {
        'device at first': Math.round(mebibytes.device.start),
        'device at last': Math.round(mebibytes.device.end),
        'resident at first': Math.round(mebibytes.resident.start),
        'resident at last': Math.round(mebibytes.resident.end),
      },
    };
    return [row];
  } catch (error) {
    return [failedRow(plan, error)];
  }
}
