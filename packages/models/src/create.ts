import { D2DMoEError, type Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Architecture, ParameterSpec } from './architecture.js';
import { readArchitecture } from './architectures.js';
import { ConfigReader } from './config.js';
import { dynamicConfig, routerNames, routerSpecs } from './dynamic-config.js';
import { Model, type ModelTensor } from './model.js';

/** A tensor as a checkpoint gives it. */
export interface StoredTensor {
  /** Sizes of the axes, outermost first. */
  shape: readonly number[];
  /** Row-major. */
  data: Float32Array;
}

/** A tensor that a model needs, and its name in the checkpoint at hand. */
export interface PlannedTensor extends ParameterSpec {
  stored: string;
}

/** Everything that a config.json asks for: its architecture and the tensors to read. */
export interface ModelPlan {
  config: Record<string, unknown>;
  architecture: Architecture;
  /** The weights, then the routers. */
  tensors: PlannedTensor[];
}

/**
 * Matches a config.json with the tensors of a checkpoint before any is read. Files of the base model, which leave the
 * prefix (`bert.`, `transformer.`) out, and the names `gamma` and `beta` of the first BERT files are recognised.
 *
 * @param shapeOf The shape of the checkpoint's tensor of this name, or undefined if it has none.
 * @throws D2DMoEError `MODEL_TYPE_UNSUPPORTED`, `CONFIG_INVALID`, `FORMAT_VERSION_UNSUPPORTED`, `TENSOR_MISSING`,
 *   `SHAPE_MISMATCH`
 */
export function planModel(
  config: Record<string, unknown>,
  shapeOf: (name: string) => readonly number[] | undefined,
): ModelPlan {
  const architecture = readArchitecture(config);
  const specs = [...architecture.parameters, ...routerSpecs(config, architecture.sites)];
  const tensors = specs.map((spec) => {
    for (const stored of storedNames(spec.name, architecture.prefix)) {
      const shape = shapeOf(stored);
      if (shape === undefined) continue;
      if (shape.join() !== spec.shape.join()) {
        throw new D2DMoEError(
          'SHAPE_MISMATCH',
          `Tensor "${stored}" has shape [${shape.join(', ')}], but config.json asks for [${spec.shape.join(', ')}].`,
        );
      }
      return { ...spec, stored };
    }
    throw new D2DMoEError(
      'TENSOR_MISSING',
      `The checkpoint has no tensor "${spec.name}", which a ${architecture.modelType} model for ${architecture.task} needs.`,
    );
  });
  return { config: structuredClone(config), architecture, tensors };
}

/** The names under which a tensor may be found, most usual first. */
function storedNames(name: string, prefix: string): string[] {
  const names = [name];
  if (name.startsWith(prefix)) names.push(name.slice(prefix.length));
  if (!name.includes('LayerNorm')) return names;
  return names.flatMap((n) => [
    n,
    n
      .replace(/LayerNorm\.weight$/, 'LayerNorm.gamma')
      .replace(/LayerNorm\.bias$/, 'LayerNorm.beta'),
  ]);
}

/** float32 bytes of all tensors of a plan. */
export function planBytes(plan: ModelPlan): number {
  return plan.tensors.reduce((sum, { shape }) => sum + 4 * tf.util.sizeFromShape(shape), 0);
}

/** Makes the model of a plan from its tensors, given in the plan's order; takes the variables over. */
export function assembleModel(plan: ModelPlan, variables: readonly tf.Variable[]): Model {
  const { architecture, config } = plan;
  const weights: ModelTensor[] = architecture.parameters.map(({ name }, i) => ({
    name,
    stored: plan.tensors[i]?.stored as string,
    variable: variables[i] as tf.Variable,
  }));
  const model = new Model(architecture, config, weights);
  const byName = new Map(plan.tensors.map(({ name }, i) => [name, variables[i]]));
  const sites = Object.entries(dynamicConfig(model)?.sites ?? {});
  for (const [siteName, { router_width: width }] of sites) {
    if (width === undefined) continue;
    const names = routerNames(siteName);
    model.routers.set(siteName, {
      hidden: byName.get(names.hidden) as tf.Tensor as tf.Tensor2D,
      output: byName.get(names.output) as tf.Tensor as tf.Tensor2D,
    });
  }
  return model;
}

/** A variable that holds a checkpoint's tensor. */
export function toVariable(data: Float32Array, shape: number[]): tf.Variable {
  const tensor = tf.tensor(data, shape, 'float32');
  const variable = tf.variable(tensor);
  tensor.dispose();
  return variable;
}

/**
 * A model from tensors in memory.
 *
 * @param config The config.json object; it is copied.
 * @param read The tensor of this name, or undefined if there is none. Called more than once for some.
 * @throws D2DMoEError as {@link planModel}
 */
export function createModel(
  config: Record<string, unknown>,
  read: (name: string) => StoredTensor | undefined,
): Model {
  const plan = planModel(config, (name) => read(name)?.shape);
  return assembleModel(
    plan,
    plan.tensors.map(({ stored, shape }) => toVariable((read(stored) as StoredTensor).data, shape)),
  );
}

/**
 * A fresh model to train from scratch: weights drawn from a normal distribution of deviation `initializer_range`
 * (0.02 by default), biases 0, norms the identity.
 *
 * @param config The config.json object; it is copied.
 * @throws D2DMoEError `MODEL_TYPE_UNSUPPORTED`, `CONFIG_INVALID`
 */
export function initModel(config: Record<string, unknown>, random: Random): Model {
  const deviation = new ConfigReader(config).positive('initializer_range', 0.02);
  const { parameters, sites } = readArchitecture(config);
  const specs = [...parameters, ...routerSpecs(config, sites)];
  const plan = planModel(config, (name) => specs.find((spec) => spec.name === name)?.shape);
  return assembleModel(
    plan,
    plan.tensors.map(({ name, shape, init }) => {
      const data = new Float32Array(tf.util.sizeFromShape(shape));
      if (init === 'ones') data.fill(1);
      if (init === 'normal') {
        // By name, so that a tensor's values do not depend on what else the model has.
        const generator = random.fork(name);
        for (let i = 0; i < data.length; i++) data[i] = deviation * generator.normal();
      }
      return toVariable(data, shape);
    }),
  );
}
