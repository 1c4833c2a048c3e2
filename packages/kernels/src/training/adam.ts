import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../dispatch.js';

/** Settings of {@link Adam}; the defaults are those of PyTorch's AdamW but for weight decay. */
export interface AdamOptions {
  /** Of steps that name none of their own; default 1e-3. */
  learningRate?: number;
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  epsilon?: number;
  /** Decoupled decay of tensors of rank 2 and more (not of biases and norms); default 0. */
  weightDecay?: number;
}

interface Moments {
  first: tf.Tensor;
  second: tf.Tensor;
}

/**
 * Adam (Kingma and Ba 2015) with decoupled weight decay (Loshchilov and Hutter 2019), fused where the backend has
 * `AdamStep` (one tensor to new ones) or `AdamSteps` (many tensors in place). Unlike tf.train.adam its state can be saved and restored bit for bit: a run that is resumed
 * continues exactly as if it had not been interrupted.
 */
export class Adam {
  readonly #params: ReadonlyMap<string, tf.Variable>;
  readonly #options: Required<AdamOptions>;
  readonly #moments = new Map<string, Moments>();
  #steps = 0;

  constructor(params: ReadonlyMap<string, tf.Variable>, options: AdamOptions = {}) {
    this.#params = params;
    this.#options = {
      learningRate: 1e-3,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      weightDecay: 0,
      ...options,
    };
    for (const [name, { shape }] of params) {
      this.#moments.set(name, {
        first: tf.keep(tf.zeros(shape)),
        second: tf.keep(tf.zeros(shape)),
      });
    }
  }

  /** Steps taken so far. */
  get steps(): number {
    return this.#steps;
  }

  /**
   * Updates every parameter that has a gradient.
   *
   * @param gradients by parameter name, each of its parameter's shape; not disposed
   * @param learningRate of this step
   * @param scale multiplies the gradients, as `clippingScale` gives it; not disposed
   */
  step(
    gradients: Readonly<Record<string, tf.Tensor>>,
    learningRate = this.#options.learningRate,
    scale?: tf.Scalar,
  ): void {
    const { beta1, beta2, epsilon, weightDecay } = this.#options;
    this.#steps++;
    const correction2 = Math.sqrt(1 - beta2 ** this.#steps);
    const attributes = {
      rate: (learningRate * correction2) / (1 - beta1 ** this.#steps),
      beta1,
      beta2,
      epsilon: epsilon * correction2,
    };
    const inPlace: Update[] = [];
    for (const [name, gradient] of Object.entries(gradients)) {
      const param = this.#params.get(name);
      const moments = this.#moments.get(name);
      if (param === undefined || moments === undefined) continue;
      const keep = param.rank > 1 ? 1 - learningRate * weightDecay : 1;
      const update = { param, gradient, moments, keep };
      if (hasKernel('AdamSteps') && isUnshared(update)) inPlace.push(update);
      else replace(update, attributes, scale);
    }
    if (inPlace.length > 0) overwrite(inPlace, attributes, scale);
  }

  /** The state as tensors by name, `<parameter>.first` and `<parameter>.second`, to be saved with {@link steps}. */
  state(): Map<string, tf.Tensor> {
    const state = new Map<string, tf.Tensor>();
    for (const [name, { first, second }] of this.#moments) {
      state.set(`${name}.first`, first);
      state.set(`${name}.second`, second);
    }
    return state;
  }

  /** Takes over a saved state; the tensors become this optimizer's own. */
  restore(steps: number, state: ReadonlyMap<string, tf.Tensor>): void {
    this.#steps = steps;
    for (const [name, moments] of this.#moments) {
      for (const key of ['first', 'second'] as const) {
        const tensor = state.get(`${name}.${key}`);
        if (tensor === undefined) continue;
        moments[key].dispose();
        moments[key] = tf.keep(tensor);
      }
    }
  }

  /**
   * Everything that a resumed run needs, with {@link steps}: by name the parameters and their moments. The tensors are
   * the parameters and this optimizer's own, and are gone after the next step.
   */
  trainingState(): Map<string, tf.Tensor> {
    return new Map<string, tf.Tensor>([...this.#params, ...this.state()]);
  }

  /**
   * Goes on from what {@link trainingState} gave: sets the parameters too. The tensors stay the caller's.
   *
   * @throws D2DMoEError `TRAINING_STATE_INVALID` where a tensor is missing or of another shape; nothing has changed then.
   */
  resume(steps: number, state: ReadonlyMap<string, tf.Tensor>): void {
    for (const [name, { shape }] of this.trainingState()) {
      const found = state.get(name)?.shape;
      if (found === undefined || !tf.util.arraysEqual(found, shape)) {
        throw new D2DMoEError(
          'TRAINING_STATE_INVALID',
          `The saved state has ${found ? `shape [${found.join(', ')}] for` : 'no'} ${name}; expected shape [${shape.join(', ')}].`,
        );
      }
    }
    tf.tidy(() => {
      // Clones share the values; they let a state be restored that is this optimizer's own.
      const copies = new Map([...state].map(([name, tensor]) => [name, tf.clone(tensor)] as const));
      this.restore(steps, copies);
      for (const [name, param] of this.#params) param.assign(copies.get(name) as tf.Tensor);
    });
  }

  /** Frees the moments; the parameters stay the caller's. */
  dispose(): void {
    for (const { first, second } of this.#moments.values()) tf.dispose([first, second]);
    this.#moments.clear();
  }
}

interface Update {
  param: tf.Variable;
  gradient: tf.Tensor;
  moments: Moments;
  /** Factor of the parameter: 1 − rate · decay. */
  keep: number;
}

interface AdamAttributes {
  rate: number;
  beta1: number;
  beta2: number;
  epsilon: number;
}

/** Whether no other tensor (a clone, say) sees the data, which then may be overwritten. */
function isUnshared({ param, moments }: Update): boolean {
  const backend = tf.engine().backend;
  return [param, moments.first, moments.second].every(
    ({ dataId }) => backend.refCount(dataId) === 1,
  );
}

function overwrite(updates: Update[], attributes: AdamAttributes, scale?: tf.Scalar): void {
  const tensors = updates.flatMap(({ param, gradient, moments }) => [
    param,
    gradient,
    moments.first,
    moments.second,
  ]);
  if (scale) tensors.push(scale);
  runKernel('AdamSteps', tensors as unknown as Record<string, tf.Tensor>, {
    ...attributes,
    keep: updates.map(({ keep }) => keep),
  });
}

function replace(
  { param, gradient, moments, keep }: Update,
  attributes: AdamAttributes,
  scale?: tf.Scalar,
): void {
  const [value, first, second] = tf.tidy(() => {
    const scaled = scale ? tf.mul(gradient, scale) : gradient;
    return adamStep(param, scaled, moments, { ...attributes, keep });
  });
  param.assign(value);
  value.dispose();
  moments.first.dispose();
  moments.second.dispose();
  moments.first = tf.keep(first);
  moments.second = tf.keep(second);
}

function adamStep(
  param: tf.Tensor,
  gradient: tf.Tensor,
  { first, second }: Moments,
  attributes: AdamAttributes & { keep: number },
): [tf.Tensor, tf.Tensor, tf.Tensor] {
  if (hasKernel('AdamStep')) {
    const inputs = { param, gradient, first, second };
    return runKernel('AdamStep', inputs, attributes) as [tf.Tensor, tf.Tensor, tf.Tensor];
  }
  const { rate, beta1, beta2, epsilon, keep } = attributes;
  const m = tf.add(tf.mul(first, beta1), tf.mul(gradient, 1 - beta1));
  const v = tf.add(tf.mul(second, beta2), tf.mul(tf.square(gradient), 1 - beta2));
  const update = tf.div(tf.mul(m, rate), tf.add(tf.sqrt(v), epsilon));
  return [tf.sub(keep === 1 ? param : tf.mul(param, keep), update), m, v];
}
