import { D2DMoEError } from '@d2dmoe/core';
import { Adam } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { imitationGradients, type SparsityTerm } from './imitation.js';
import type { TrainableReplacement } from './replacement.js';

/** A batch for one projection's replacement. */
export interface ImitationSample {
  /** [N, dIn], the projection's inputs, recorded while the model ran with its own projections. */
  input: tf.Tensor2D;
  /** [N, dOut], what the projection gave for them. */
  target: tf.Tensor2D;
}

/** How one step is to be taken. */
export interface ImitationStep {
  /** Adam's rate in this step. */
  learningRate: number;
  /** Weight of the sparsity term; 0 leaves it out of the loss, but not out of the figures. */
  alpha: number;
}

/** What a step found, before it moved anything; means over the projections. */
export interface ImitationFigures {
  /** `imitationError` */
  error: number;
  /** The sparsity term, where there is one. */
  sparsity?: number;
}

const parts = ['up', 'upBias', 'down', 'downBias'] as const;

/**
 * Trains the replacements of many projections at once, each on its own projection's records, with Adam (Szatkowski et
 * al. 2024, section 3.5). A run that is restored from its state continues bit for bit as if it had not been interrupted.
 */
export class ImitationTrainer {
  readonly #replacements: ReadonlyMap<string, TrainableReplacement>;
  readonly #adam: Adam;
  readonly #term: SparsityTerm | undefined;

  /**
   * @param settings.replacements By the name of their site; they stay the caller's to dispose.
   * @param settings.term Sparsity term on the activations.
   */
  constructor({
    replacements,
    term,
  }: {
    replacements: ReadonlyMap<string, TrainableReplacement>;
    term?: SparsityTerm;
  }) {
    this.#replacements = replacements;
    this.#term = term;
    const params = new Map<string, tf.Variable>(
      [...replacements].flatMap(([site, replacement]) =>
        parts.map((part) => [`${site}.${part}`, replacement[part] as tf.Variable] as const),
      ),
    );
    this.#adam = new Adam(params);
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#adam.steps;
  }

  /**
   * One step of every replacement. Waits for the device once.
   *
   * @param samples A batch for each site; not disposed.
   * @throws D2DMoEError `IMITATION_SAMPLE_MISSING` where a site has no sample.
   */
  step(
    samples: ReadonlyMap<string, ImitationSample>,
    { learningRate, alpha }: ImitationStep,
  ): ImitationFigures {
    return tf.tidy(() => {
      const errors: tf.Scalar[] = [];
      const terms: tf.Scalar[] = [];
      const gradients: Record<string, tf.Tensor> = {};
      for (const [site, replacement] of this.#replacements) {
        const sample = samples.get(site);
        if (sample === undefined) {
          throw new D2DMoEError(
            'IMITATION_SAMPLE_MISSING',
            `The batch has no sample for the replacement of ${site}; every site needs one in every step.`,
          );
        }
        const found = imitationGradients(
          sample.input,
          sample.target,
          replacement,
          this.#term && { term: this.#term, alpha },
        );
        errors.push(found.error);
        if (found.sparsity) terms.push(found.sparsity);
        for (const part of parts) gradients[`${site}.${part}`] = found[part];
      }
      this.#adam.step(gradients, learningRate);
      const mean = (values: tf.Scalar[]) => tf.mean(tf.stack(values));
      const means = terms.length > 0 ? [mean(errors), mean(terms)] : [mean(errors)];
      const [error, sparsity] = tf.stack(means).dataSync();
      return { error: error as number, ...(sparsity !== undefined && { sparsity }) };
    });
  }

  /**
   * Everything that a resumed run needs, with {@link steps}: by name the weights (`<site>.up` and so on) and Adam's
   * moments (`….first`, `….second`). The tensors are the trainer's own, and are gone after the next step.
   */
  state(): Map<string, tf.Tensor> {
    return this.#adam.trainingState();
  }

  /**
   * Goes on from a saved state; the tensors stay the caller's.
   *
   * @throws D2DMoEError `TRAINING_STATE_INVALID` where a tensor is missing or of another shape; nothing has changed
   *   then.
   */
  restore(steps: number, state: ReadonlyMap<string, tf.Tensor>): void {
    this.#adam.resume(steps, state);
  }

  /** Frees the optimizer's state; the replacements stay. */
  dispose(): void {
    this.#adam.dispose();
  }
}
