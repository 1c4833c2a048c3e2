import { fileURLToPath } from 'node:url';
import type { TensorReader } from '@d2dmoe/safetensors';
import * as tf from '@tensorflow/tfjs-core';
import { relativeError } from '../../kernels/testing/closeness.js';
import type { Batch, Model } from '../src/index.js';

/** The recorded tiny checkpoints; their README says what each exercises. */
export const fixture = (name: string) =>
  fileURLToPath(new URL(`../../../tools/fixtures/${name}`, import.meta.url));

export const fixtures = ['tiny-vit', 'tiny-bert', 'tiny-gpt2', 'tiny-gemma', 'tiny-gemma-gqa'];

/** The names of the batches in a reference file: prefixes such as `padded.`, or the empty one. */
export function batchPrefixes(reference: TensorReader): string[] {
  const names = [...reference.tensors.keys()].filter((name) => name.endsWith('logits'));
  return names.map((name) => name.slice(0, -'logits'.length));
}

/** An input of a reference file; the caller disposes its tensors. */
export async function readBatch(reference: TensorReader, prefix: string): Promise<Batch> {
  const ids = async (name: string) => {
    const info = reference.tensors.get(prefix + name);
    if (info === undefined) return undefined;
    const values = await reference.readInt32(prefix + name);
    return tf.tensor<tf.Rank.R2>(values, [...info.shape] as [number, number], 'int32');
  };
  const inputIds = await ids('input_ids');
  if (inputIds === undefined) {
    const name = `${prefix}pixel_values`;
    const values = await reference.readFloat32(name);
    const shape = [...(reference.tensors.get(name)?.shape ?? [])];
    return {
      pixelValues: tf.tensor<tf.Rank.R4>(values, shape as [number, number, number, number]),
    };
  }
  const attentionMask = await ids('attention_mask');
  const tokenTypeIds = await ids('token_type_ids');
  return {
    inputIds,
    ...(attentionMask && { attentionMask }),
    ...(tokenTypeIds && { tokenTypeIds }),
  };
}

/**
 * The relative error of each recorded hidden state and of the logits, by tensor name; infinite where the model does
 * not compute such a tensor.
 */
export async function compareWithReference(
  model: Model,
  reference: TensorReader,
  prefix: string,
): Promise<Record<string, number>> {
  const batch = await readBatch(reference, prefix);
  const { logits, hiddenStates = [] } = tf.tidy(() => model.forward(batch, { hiddenStates: true }));
  const computed = new Map<string, tf.Tensor>([[`${prefix}logits`, logits]]);
  for (const [i, state] of hiddenStates.entries()) {
    computed.set(`${prefix}hidden_states.${i}`, state);
  }
  const errors: Record<string, number> = {};
  for (const [name, { shape }] of reference.tensors) {
    if (!name.startsWith(prefix) || !/(hidden_states\.\d+|logits)$/.test(name)) continue;
    const tensor = computed.get(name);
    errors[name] =
      tensor?.shape.join() === shape.join()
        ? relativeError(await tensor.data<'float32'>(), await reference.readFloat32(name))
        : Infinity;
  }
  tf.dispose([...computed.values(), ...Object.values(batch)]);
  return errors;
}

/** Greedy decoding: the prompts [B][T] with `count` more tokens each. */
export function decodeGreedily(model: Model, prompts: number[][], count: number): number[][] {
  let ids = prompts;
  for (let step = 0; step < count; step++) {
    ids = tf.tidy(() => {
      const { logits } = model.forward({ inputIds: tf.tensor2d(ids, undefined, 'int32') });
      const next = tf.argMax<tf.Tensor2D>(logits, -1).arraySync();
      return ids.map((row, i) => [...row, next[i]?.at(-1) ?? NaN]);
    });
  }
  return ids;
}

/** A tensor of ids as nested arrays. */
export async function readIds(reference: TensorReader, name: string): Promise<number[][]> {
  const values = [...(await reference.readInt32(name))];
  const [rows = 0, columns = 0] = reference.tensors.get(name)?.shape ?? [];
  return Array.from({ length: rows }, (_, i) => values.slice(i * columns, (i + 1) * columns));
}
