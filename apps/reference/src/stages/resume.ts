import { readdir, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { openSafetensors } from '@d2dmoe/safetensors';
import { fileSource, writeSafetensors } from '@d2dmoe/safetensors/node';
import type { Metrics } from './stage.js';

/**
 * A stage's state in the middle: tensors and the number of steps done, in one file that is replaced by rename, in
 * float32 whatever the checkpoint is written in. A state that was written for other inputs or settings is ignored.
 */
export class Resume {
  readonly #path: string;
  readonly #key: string;
  readonly #saveEvery: number;
  readonly #opened = Date.now();
  #saved = Date.now();
  /** Steps done when the state was saved; 0 for a fresh start. */
  steps = 0;
  metrics: Metrics[] = [];
  /** Seconds that earlier, interrupted runs had taken up to the state. */
  secondsBefore = 0;
  #tensors = new Map<string, { shape: number[]; values: Float32Array }>();

  private constructor(path: string, key: string, saveEvery: number) {
    this.#path = path;
    this.#key = key;
    this.#saveEvery = saveEvery;
  }

  /** Opens the state at `path`, empty unless a state with this key is there. */
  static async open(path: string, key: string, saveEvery: number): Promise<Resume> {
    const resume = new Resume(path, key, saveEvery);
    if (await stat(path).catch(() => undefined)) {
      const file = await openSafetensors(await fileSource(path));
      if (file.metadata['key'] === key) {
        resume.steps = Number(file.metadata['steps']);
        resume.secondsBefore = Number(file.metadata['seconds']);
        resume.metrics = JSON.parse(file.metadata['metrics'] as string) as Metrics[];
        for (const [name, { shape }] of file.tensors) {
          resume.#tensors.set(name, { shape: [...shape], values: await file.readFloat32(name) });
        }
      }
      await file.close();
    }
    return resume;
  }

  /** Moves the saved tensors out, as tfjs tensors that the caller owns; empty on a fresh start. */
  takeTensors(): Map<string, tf.Tensor> {
    const tensors = new Map<string, tf.Tensor>();
    for (const [name, { shape, values }] of this.#tensors)
      tensors.set(name, tf.tensor(values, shape));
    this.#tensors.clear();
    return tensors;
  }

  /** Whether the last save is long enough ago for the next. */
  get due(): boolean {
    return Date.now() - this.#saved >= this.#saveEvery * 1000;
  }

  async save(
    steps: number,
    tensors: ReadonlyMap<string, tf.Tensor>,
    metrics: readonly Metrics[],
  ): Promise<void> {
    const seconds = this.secondsBefore + (Date.now() - this.#opened) / 1000;
    const entries = [...tensors].map(([name, tensor]) => ({
      name,
      dtype: 'F32' as const,
      shape: tensor.shape,
      data: async () => (await tensor.data()) as Float32Array,
    }));
    await writeSafetensors(this.#path, entries, {
      metadata: {
        key: this.#key,
        steps: String(steps),
        seconds: String(seconds),
        metrics: JSON.stringify(metrics),
      },
    });
    this.#saved = Date.now();
  }

  /** Removes the state, and what a killed run had begun to write of it. */
  static async remove(path: string): Promise<void> {
    const folder = dirname(path);
    const unfinished = (await readdir(folder)).filter(
      (name) => name.startsWith(`.${basename(path)}.`) && name.endsWith('.tmp'),
    );
    for (const name of [basename(path), ...unfinished])
      await rm(join(folder, name), { force: true });
  }
}
