import { D2DMoEError } from '@d2dmoe/core';
import { Adam } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import { warmupCosine } from './learning-rate.js';
import { normRegressionGradients, type RouterGradients } from './norm-regression.js';
import type { TrainableRouter } from './router.js';

/** A batch for one site's router. */
export interface RouterSample {
  /** [N, dIn], the layer's inputs, recorded while the model ran dense. */
  input: tf.Tensor2D;
  /**
   * [N, n], what the router is to give for them: the norm of each expert's output (`contributionNorms` of
   * `@d2dmoe/kernels`), or whatever the trainer's objective asks for.
   */
  target: tf.Tensor2D;
}

/** What a {@link RouterTrainer} trains, and for how long. */
export interface RouterTrainerSettings {
  /** The routers by the name of their site; they stay the caller's to dispose. */
  routers: ReadonlyMap<string, TrainableRouter>;
  /** Length of the run, over which the learning rate falls to 0. */
  steps: number;
  /** The highest learning rate; 1e-3 unless told otherwise. */
  learningRate?: number;
  /**
   * The loss and its gradient in one router's weights: {@link normRegressionGradients} unless told otherwise,
   * `moeficationGradients` for the baseline.
   */
  objective?: (
    input: tf.Tensor2D,
    targets: tf.Tensor2D,
    router: TrainableRouter,
  ) => RouterGradients;
}

/**
 * Trains the routers of many layers at once, each by its objective on its own layer's records, with Adam and a learning rate that rises over the first twentieth of the run and then falls along a cosine
 * (Szatkowski et al. 2024, section 3.3). A run that is restored from its state continues bit for bit as if it had
 * not been interrupted.
 */
export class RouterTrainer {
  readonly #routers: ReadonlyMap<string, TrainableRouter>;
  readonly #adam: Adam;
  readonly #length: number;
  readonly #learningRate: number;
  readonly #objective: NonNullable<RouterTrainerSettings['objective']>;

  constructor({
    routers,
    steps,
    learningRate = 1e-3,
    objective = normRegressionGradients,
  }: RouterTrainerSettings) {
    this.#routers = routers;
    this.#length = steps;
    this.#learningRate = learningRate;
    this.#objective = objective;
    const params = new Map<string, tf.Variable>(
      [...routers].flatMap(([site, { hidden, output }]) => [
        [`${site}.hidden`, hidden],
        [`${site}.output`, output],
      ]),
    );
    this.#adam = new Adam(params);
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#adam.steps;
  }

  /**
   * One step of every router.
   *
   * @param samples A batch for each site; not disposed.
   * @returns The loss before the step, mean over the layers.
   * @throws D2DMoEError `ROUTER_SAMPLE_MISSING` where a site has no sample.
   */
  step(samples: ReadonlyMap<string, RouterSample>): number {
    return tf.tidy(() => {
      const losses: tf.Scalar[] = [];
      const gradients: Record<string, tf.Tensor> = {};
      for (const [site, router] of this.#routers) {
        const sample = samples.get(site);
        if (sample === undefined) {
          throw new D2DMoEError(
            'ROUTER_SAMPLE_MISSING',
            `The batch has no sample for the router of ${site}; every site needs one in every step.`,
          );
        }
        // A layer's share of the mean over layers scales its gradient by a constant, to which Adam is indifferent.
        const { loss, hidden, output } = this.#objective(sample.input, sample.target, router);
        losses.push(loss);
        gradients[`${site}.hidden`] = hidden;
        gradients[`${site}.output`] = output;
      }
      this.#adam.step(gradients, warmupCosine(this.#learningRate, this.#length, this.steps));
      return tf.mean(tf.stack(losses)).dataSync()[0] as number;
    });
  }

  /**
   * Everything that a resumed run needs, with {@link steps}: by name the weights (`<site>.hidden`, `<site>.output`) and
   * Adam's moments (`….first`, `….second`). The tensors are the trainer's own, and are gone after the next step.
   */
  state(): Map<string, tf.Tensor> {
    return this.#adam.trainingState();
  }

  /**
   * Goes on from a saved state; the tensors stay the caller's.
   *
   * @throws D2DMoEError `TRAINING_STATE_INVALID` where a tensor is missing or of another shape; nothing has changed then.
   */
  restore(steps: number, state: ReadonlyMap<string, tf.Tensor>): void {
    this.#adam.resume(steps, state);
  }

  /** Frees the optimizer's state; the routers stay. */
  dispose(): void {
    this.#adam.dispose();
  }
}
