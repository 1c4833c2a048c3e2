import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import type { TensorReader } from '@d2dmoe/safetensors';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import * as tf from '@tensorflow/tfjs-core';
import { assembleModel, type ModelPlan, planBytes, planModel, toVariable } from './create.js';
import { readJsonObject } from './files.js';
import type { Model } from './model.js';

/** Options of {@link loadModel}. */
export interface LoadOptions {
  /** Bytes that the float32 weights may take; by default 4 GiB on the wasm backend and unlimited elsewhere. */
  memoryLimit?: number;
}

const gibibyte = 2 ** 30;

/**
 * The config.json of a checkpoint folder.
 *
 * @throws D2DMoEError `FILE_MISSING`, `FILE_UNREADABLE`, `JSON_INVALID`
 */
export function readConfig(directory: string): Promise<Record<string, unknown>> {
  return readJsonObject(join(directory, 'config.json'));
}

/**
 * Loads a checkpoint folder in the Hugging Face layout, config.json and model.safetensors or its shards, onto the
 * current backend in float32; with its routers if it is a converted one. Everything that can be wrong with config and
 * headers is found before the first tensor is read.
 *
 * @throws D2DMoEError `FILE_MISSING`, `JSON_INVALID`, `MODEL_TYPE_UNSUPPORTED`, `CONFIG_INVALID`,
 *   `FORMAT_VERSION_UNSUPPORTED`, `TENSOR_MISSING`, `SHAPE_MISMATCH`, `MODEL_TOO_LARGE`, and what openCheckpoint throws
 */
export async function loadModel(directory: string, options: LoadOptions = {}): Promise<Model> {
  const { plan, reader } = await openModel(directory, options);
  const variables: tf.Variable[] = [];
  try {
    for (const { stored, shape } of plan.tensors) {
      variables.push(toVariable(await reader.readFloat32(stored), shape));
    }
    return assembleModel(plan, variables);
  } catch (error) {
    tf.dispose(variables);
    throw error;
  } finally {
    await reader.close();
  }
}

/**
 * Finds what {@link loadModel} would find wrong with a checkpoint folder before it reads the first tensor.
 *
 * @throws D2DMoEError as {@link loadModel}
 */
export async function checkCheckpoint(directory: string, options: LoadOptions = {}): Promise<void> {
  const { reader } = await openModel(directory, options);
  await reader.close();
}

async function openModel(
  directory: string,
  { memoryLimit }: LoadOptions,
): Promise<{ plan: ModelPlan; reader: TensorReader }> {
  const config = await readConfig(directory);
  const reader = await openCheckpoint(directory);
  try {
    const plan = planModel(config, (name) => reader.tensors.get(name)?.shape);
    checkMemory(planBytes(plan), memoryLimit);
    return { plan, reader };
  } catch (error) {
    await reader.close();
    throw error;
  }
}

function checkMemory(bytes: number, memoryLimit: number | undefined): void {
  const backend = tf.getBackend();
  const limit = memoryLimit ?? (backend === 'wasm' ? 4 * gibibyte : Infinity);
  if (bytes > limit) {
    throw new D2DMoEError(
      'MODEL_TOO_LARGE',
      `The model's weights take ${inGibibytes(bytes)} in float32, but the ${backend} backend may use ${inGibibytes(limit)}; choose a smaller model or another device.`,
    );
  }
}

function inGibibytes(bytes: number): string {
  return `${(bytes / gibibyte).toPrecision(3)} GiB (${bytes} bytes)`;
}
