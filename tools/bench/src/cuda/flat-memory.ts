import type { CudaBackend } from '@d2dmoe/backend-cuda';
import type { Random } from '@d2dmoe/core';
import { Adam, clippingScale, softmaxCrossEntropy } from '@d2dmoe/kernels';
import { initModel, type Model } from '@d2dmoe/models';
import * as tf from '@tensorflow/tfjs-core';
import { holds } from '../bars.js';
import { collectGarbage } from '../collect-garbage.js';
import { failedRow, type Row } from '../row.js';

const STEPS = 10_000;
const BATCH = 2;
const config = {
  model_type: 'gpt2',
  n_embd: 32,
  n_layer: 2,
  n_head: 2,
  vocab_size: 64,
  n_positions: 32,
};

/** What a process holds at one moment, in bytes. */
interface Holdings {
  /** Of the card, by the driver's own account. */
  card: number;
  /** Of the allocator, cached blocks included. */
  allocator: number;
  /** Resident set. */
  host: number;
}

/**
 * Whether a long training keeps its memory: a small GPT-2, a new batch each step, the loss read back each time as a
 * trainer does. What is held after a tenth of the steps is compared with what is held at the end.
 */
export async function flatMemoryRows(
  backend: CudaBackend,
  random: Random,
  wanted: (name: string) => boolean,
  steps = STEPS,
): Promise<Row[]> {
  const title = `memory, from step ${steps / 10} to step ${steps} of training`;
  const plans = [
    {
      name: `${title}: growth on the device, MiB`,
      bar: { atMost: 0 },
      of: ['card', 'allocator'] as const,
    },
    { name: `${title}: growth on the host, MiB`, bar: { atMost: 32 }, of: ['host'] as const },
  ].filter(({ name }) => wanted(name));
  if (plans.length === 0) return [];
  try {
    const [early, late] = await train(backend, random, steps);
    return plans.map(({ name, bar, of }) => {
      const value = Math.max(...of.map((part) => late[part] - early[part])) / 2 ** 20;
      const mebibytes = Object.fromEntries(
        of.flatMap((part) => [
          [`${part} early`, inMebibytes(early[part])],
          [`${part} late`, inMebibytes(late[part])],
        ]),
      );
      return { name, bar, value, holds: holds(bar, value), mebibytes };
    });
  } catch (error) {
    return plans.map((plan) => failedRow(plan, error));
  }
}

/**
 * Trains a model to say its input again.
 *
 * @returns What is held after a tenth of the steps, and at the end.
 * @throws Error where the loss does not fall, or tensors are left over.
 */
async function train(
  backend: CudaBackend,
  random: Random,
  steps: number,
): Promise<[Holdings, Holdings]> {
  const model = initModel(config, random);
  const adam = new Adam(model.params, { learningRate: 1e-3 });
  const first = await trainStep(model, adam, random);
  let loss = first;
  let early: Holdings | undefined;
  let tensors = 0;
  for (let step = 1; step <= steps; step++) {
    if (step === steps / 10) {
      early = holdings(backend);
      tensors = tf.memory().numTensors;
    }
    loss = await trainStep(model, adam, random);
  }
  const late = holdings(backend);
  const left = tf.memory().numTensors - tensors;
  adam.dispose();
  model.dispose();
  if (!(loss < 0.9 * first)) {
    throw new Error(`The loss was ${first} before ${steps} steps of training and is ${loss} now.`);
  }
  if (left !== 0) throw new Error(`The training leaves ${left} tensors behind.`);
  if (early === undefined) throw new RangeError('The steps must be a multiple of 10.');
  return [early, late];
}

async function trainStep(model: Model, adam: Adam, random: Random): Promise<number> {
  const ids = Int32Array.from({ length: BATCH * config.n_positions }, () =>
    random.integer(config.vocab_size),
  );
  const names = new Map(Array.from(model.params, ([name, { name: id }]) => [id, name]));
  const value = tf.tidy(() => {
    const inputIds = tf.tensor2d(ids, [BATCH, config.n_positions], 'int32');
    const { value, grads } = tf.variableGrads(() => {
      const { logits } = model.forward({ inputIds });
      const rows = tf.reshape<tf.Rank.R2>(logits, [ids.length, config.vocab_size]);
      return tf.mean<tf.Scalar>(softmaxCrossEntropy(rows, tf.tensor1d(ids, 'int32')));
    }, [...model.params.values()]);
    const gradients = Object.fromEntries(
      Object.entries(grads).map(([id, gradient]) => [names.get(id) as string, gradient]),
    );
    adam.step(gradients, undefined, clippingScale(Object.values(gradients), 1));
    return value;
  });
  const [loss] = await value.data();
  value.dispose();
  return loss as number;
}

function holdings(backend: CudaBackend): Holdings {
  backend.synchronize();
  collectGarbage();
  const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
  const result = backend.driver.cuMemGetInfo_v2(free, total);
  if (result !== 0) throw new Error(`cuMemGetInfo failed with ${result}.`);
  return {
    card: Number((total[0] ?? 0n) - (free[0] ?? 0n)),
    allocator: backend.memory().numBytesInGPUAllocated,
    host: process.memoryUsage().rss,
  };
}

function inMebibytes(bytes: number): number {
  return Number((bytes / 2 ** 20).toFixed(1));
}
