import { D2DMoEError } from '@d2dmoe/core';
import type { Activation, FeedForwardWeights, PackedExperts, RouterWeights } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type {
  Architecture,
  Batch,
  FeedForwardNames,
  ForwardResult,
  ModelShape,
  Task,
} from './architecture.js';
import type { ModelType } from './config.js';
import { replacementNames } from './dynamic-config.js';
import type { ForwardOptions, Site } from './site.js';

/** A tensor of a model with its name in the checkpoint and the one that the architecture knows it by. */
export interface ModelTensor {
  /** Its name in the file. */
  stored: string;
  /** Its name in {@link Architecture.parameters}. */
  name: string;
  variable: tf.Variable;
}

/**
 * A transformer with its weights. Made by `loadModel`, `createModel` or `initModel`; owns its variables until
 * {@link Model.dispose}.
 */
export class Model {
  /** The config's `model_type`. */
  readonly modelType: ModelType;
  /** What its outputs are: a text's or an image's class, or the next token. */
  readonly task: Task;
  /** The config.json object as it was read, fields that this package does not know included. */
  readonly config: Record<string, unknown>;
  /** Widths and counts that costs follow from. */
  readonly shape: ModelShape;
  /** The weights by their names in the checkpoint, oriented as they are there. */
  readonly params: Map<string, tf.Variable>;
  /** What can be converted, in the order in which the forward pass runs it. */
  readonly sites: readonly Site[];
  /** A classifier's labels, by class. */
  readonly labels?: string[];
  /** The routers of a converted model by the names of their sites; empty for a dense one. */
  readonly routers = new Map<string, RouterWeights>();
  /** The sites that {@link packModel} has packed, by site name: experts in place of their dense weights. */
  readonly experts = new Map<string, PackedExperts>();
  readonly #architecture: Architecture;
  readonly #byName: Map<string, tf.Variable>;
  readonly #siteByName: Map<string, Site>;
  #activation: Activation;

  /** @param tensors One for each of `architecture.parameters`; their shapes have been checked. */
  constructor(architecture: Architecture, config: Record<string, unknown>, tensors: ModelTensor[]) {
    this.modelType = architecture.modelType;
    this.task = architecture.task;
    this.config = config;
    this.shape = architecture.shape;
    this.sites = architecture.sites;
    if (architecture.labels !== undefined) this.labels = architecture.labels;
    this.params = new Map(tensors.map(({ stored, variable }) => [stored, variable]));
    this.#architecture = architecture;
    this.#byName = new Map(tensors.map(({ name, variable }) => [name, variable]));
    this.#siteByName = new Map(architecture.sites.map((site) => [site.name, site]));
    this.#activation = architecture.activation;
  }

  /** The FFNs' activation, for a GLU its gate's. */
  get activation(): Activation {
    return this.#activation;
  }

  /**
   * Runs the model. Synchronous and differentiable with respect to `params`; nothing is read back to the host. Wrap it
   * in tf.tidy. Token ids must lie in the vocabulary.
   *
   * @returns logits [B, classes] of a classifier, [B, T, vocabulary] of a language model
   * @throws D2DMoEError `INPUT_INVALID` if the batch does not fit the model
   */
  forward(batch: Batch, options: ForwardOptions = {}): ForwardResult {
    if (options.cache !== undefined && this.task !== 'text-generation') {
      throw new D2DMoEError(
        'INPUT_INVALID',
        `A key/value cache serves text generation, but this model is for ${this.task}.`,
      );
    }
    const context = {
      tensor: (name: string) => this.#param(name),
      matrix: (name: string) => this.#param(name) as tf.Tensor as tf.Tensor2D,
      vector: (name: string) => this.#param(name) as tf.Tensor as tf.Tensor1D,
      site: (layer: number, role: Site['role']) =>
        this.site(role === 'ffn' ? `layers.${layer}.ffn` : `layers.${layer}.attention.${role}`),
      feedForward: (layer: number) => this.#architecture.feedForward(layer),
      replacement,
      activation: this.#activation,
      options,
    };
    return this.#architecture.forward(context, batch);
  }

  /**
   * A site by its name.
   * @throws D2DMoEError `SITE_UNKNOWN`
   */
  site(name: string): Site {
    const site = this.#siteByName.get(name);
    if (site === undefined) {
      throw new D2DMoEError(
        'SITE_UNKNOWN',
        `The model has no site "${name}"; its sites are named like "${this.sites[0]?.name}" and "layers.0.ffn".`,
      );
    }
    return site;
  }

  /**
   * An FFN's or a replaced projection's weights, neuron-major: the model's own variables, and differentiable transposes of them where the
   * checkpoint stores the other orientation. Call it in a tf.tidy, which disposes the transposes alone.
   *
   * @throws D2DMoEError `SITE_KIND` for a projection that is its one matrix
   */
  weights(site: Site): FeedForwardWeights {
    const names = this.#layerNames(site);
    const matrix = (name: string, transpose: boolean) => {
      const weight = this.#param(name) as tf.Tensor as tf.Tensor2D;
      return transpose ? tf.transpose(weight) : weight;
    };
    const vector = (name: string) => this.#param(name) as tf.Tensor as tf.Tensor1D;
    const linear = names.layout === 'linear';
    return {
      up: matrix(names.up, !linear),
      ...(names.upBias !== undefined && { upBias: vector(names.upBias) }),
      ...(names.gate !== undefined && { gate: matrix(names.gate, !linear) }),
      down: matrix(names.down, linear),
      ...(names.downBias !== undefined && { downBias: vector(names.downBias) }),
      activation: site.kind === 'feedForward' ? this.#activation : 'relu',
    };
  }

  /**
   * An attention projection's own matrix [dOut, dIn] and bias [dOut], also where it was replaced: the model's variables,
   * or parts and transposes of them. Call it in a tf.tidy, which disposes those alone.
   *
   * @throws D2DMoEError `SITE_KIND` for an FFN
   */
  projection({ name }: Site): { weight: tf.Tensor2D; bias?: tf.Tensor1D } {
    const { role, layer, dOut } = this.site(name);
    if (role === 'ffn') {
      throw new D2DMoEError('SITE_KIND', `${name} is an FFN, but a projection is needed here.`);
    }
    const names = this.#architecture.projection(layer, role);
    const { layout, offset = 0 } = names;
    const axis = layout === 'linear' ? 0 : 1;
    const part = <T extends tf.Tensor>(tensor: T, along: number): T => {
      if (tensor.shape[along] === dOut) return tensor;
      const [begin, size] = [tensor.shape.map(() => 0), [...tensor.shape]];
      begin[along] = offset;
      size[along] = dOut;
      return tf.slice(tensor, begin, size);
    };
    const weight = part(this.#param(names.weight) as tf.Tensor as tf.Tensor2D, axis);
    return {
      weight: layout === 'linear' ? weight : tf.transpose(weight),
      ...(names.bias !== undefined && {
        bias: part(this.#param(names.bias) as tf.Tensor as tf.Tensor1D, 0),
      }),
    };
  }

  /**
   * Replaces the FFNs' activation by ReLU, in config.json's fields too, so that other software which opens the saved
   * checkpoint uses it as well.
   */
  relufy(): void {
    this.#activation = 'relu';
    for (const field of this.#architecture.activationFields) this.config[field] = 'relu';
  }

  /**
   * Reorders an FFN's or a replaced projection's neurons in place in all its tensors, which leaves its function as it was: the new neuron i is
   * the old neuron order[i].
   *
   * @param order A permutation of 0 … hidden − 1.
   * @throws D2DMoEError `PERMUTATION_INVALID`, or `SITE_KIND` for a projection that is its one matrix
   */
  permuteNeurons(site: Site, order: Uint32Array): void {
    const names = this.#layerNames(site);
    if (order.length !== site.hidden || !isPermutation(order)) {
      throw new D2DMoEError(
        'PERMUTATION_INVALID',
        `The order of the neurons of ${site.name} must hold each of 0 … ${site.hidden - 1} once.`,
      );
    }
    const neuronAxis = names.layout === 'linear' ? 0 : 1;
    tf.tidy(() => {
      const indices = tf.tensor1d(Int32Array.from(order), 'int32');
      const permute = (name: string | undefined, axis: number) => {
        if (name === undefined) return;
        const variable = this.#param(name);
        variable.assign(tf.gather(variable, indices, axis));
      };
      permute(names.up, neuronAxis);
      permute(names.upBias, 0);
      permute(names.gate, neuronAxis);
      permute(names.down, 1 - neuronAxis);
    });
  }

  /**
   * Frees an FFN's or a replaced projection's weights. What needs them afterwards throws `WEIGHTS_RELEASED`: its dense form, {@link weights},
   * {@link permuteNeurons}.
   *
   * @throws D2DMoEError `SITE_KIND` for a projection that is its one matrix
   */
  releaseWeights(site: Site): void {
    const { up, upBias, gate, down, downBias } = this.#layerNames(site);
    for (const name of [up, upBias, gate, down, downBias]) {
      if (name !== undefined) this.#param(name).dispose();
    }
  }

  /** Frees the weights, the routers and the packed experts. */
  dispose(): void {
    for (const experts of this.experts.values()) experts.dispose();
    this.experts.clear();
    for (const variable of this.params.values()) variable.dispose();
    for (const { hidden, output } of this.routers.values()) tf.dispose([hidden, output]);
    this.routers.clear();
  }

  #param(name: string): tf.Variable {
    const variable = this.#byName.get(name);
    if (variable === undefined) throw new Error(`The architecture does not declare ${name}.`);
    if (variable.isDisposed) {
      throw new D2DMoEError(
        'WEIGHTS_RELEASED',
        `${name} was freed: a model whose experts are packed runs with a dynamicSubstitute; load it again to run it densely or to change it.`,
      );
    }
    return variable;
  }

  #layerNames(site: Site): FeedForwardNames {
    const own = this.site(site.name);
    if (own.kind === 'feedForward') return this.#architecture.feedForward(own.layer);
    const names = replacement(own);
    if (names !== undefined) return names;
    throw new D2DMoEError(
      'SITE_KIND',
      `${site.name} is a projection, but an FFN or a projection that was replaced is needed here.`,
    );
  }
}

/** The tensors of a projection that was replaced by two layers. */
function replacement({ name, kind, hidden }: Site): FeedForwardNames | undefined {
  return kind === 'projection' && hidden > 0 ? replacementNames(name) : undefined;
}

function isPermutation(order: Uint32Array): boolean {
  const seen = new Uint8Array(order.length);
  for (const i of order) {
    if (i >= order.length || seen[i] === 1) return false;
    seen[i] = 1;
  }
  return true;
}
