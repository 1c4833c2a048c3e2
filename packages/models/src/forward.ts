import { D2DMoEError } from '@d2dmoe/core';
import { type Activation, activate, linear } from '@d2dmoe/kernels';
import * as tf from '@tensorflow/tfjs-core';
import type { Batch, FeedForwardNames, ImageBatch, TextBatch } from './architecture.js';
import { cachedPositions, type KeyValueCache } from './cache.js';
import type { ForwardOptions, ProjectionRole, Site, SiteValues } from './site.js';

/** What an architecture's forward pass works with. */
export interface ForwardContext {
  /** A parameter by its Hugging Face name. */
  tensor(name: string): tf.Tensor;
  matrix(name: string): tf.Tensor2D;
  vector(name: string): tf.Tensor1D;
  site(layer: number, role: Site['role']): Site;
  feedForward(layer: number): FeedForwardNames;
  /** The tensors of a projection that was replaced by two layers; undefined for one that is its one matrix. */
  replacement(site: Site): FeedForwardNames | undefined;
  activation: Activation;
  options: ForwardOptions;
}

/** A Linear of the checkpoint, `name`.weight [dOut, dIn] and, unless told otherwise, `name`.bias. */
export function dense(
  context: ForwardContext,
  x: tf.Tensor2D,
  name: string,
  bias = true,
): tf.Tensor2D {
  return linear(
    x,
    context.matrix(`${name}.weight`),
    bias ? context.vector(`${name}.bias`) : undefined,
  );
}

/** An attention projection as a site: the Linear `name`, unless substituted or replaced. */
export function projection(
  context: ForwardContext,
  layer: number,
  role: ProjectionRole,
  x: tf.Tensor2D,
  name: string,
  bias = true,
): tf.Tensor2D {
  return atProjection(context, layer, role, x, () => dense(context, x, name, bias));
}

/** An attention projection as a site, computed by `compute` unless substituted or replaced. */
export function atProjection(
  context: ForwardContext,
  layer: number,
  role: ProjectionRole,
  x: tf.Tensor2D,
  compute: () => tf.Tensor2D,
): tf.Tensor2D {
  const site = context.site(layer, role);
  const values = replacedProjection(context, site, x) ?? { input: x, output: compute() };
  context.options.tap?.(site, values);
  return values.output;
}

/** A projection that is substituted or was replaced by two layers; undefined where its own matrix is to be used. */
export function replacedProjection(
  context: ForwardContext,
  site: Site,
  x: tf.Tensor2D,
): SiteValues | undefined {
  const substituted = context.options.substitute?.(site, x);
  if (substituted !== undefined) return { input: x, output: substituted };
  const names = context.replacement(site);
  return names && twoLayers(context, site, x, names, 'relu');
}

/** A layer's FFN as a site: x [N, dModel] → [N, dModel]. */
export function feedForward(context: ForwardContext, layer: number, x: tf.Tensor2D): tf.Tensor2D {
  const { tap, substitute } = context.options;
  const site = context.site(layer, 'ffn');
  const substituted = substitute?.(site, x);
  const values: SiteValues =
    substituted === undefined
      ? twoLayers(context, site, x, context.feedForward(layer), context.activation)
      : { input: x, output: substituted };
  tap?.(site, values);
  return values.output;
}

/** A site's layers, run densely. */
function twoLayers(
  context: ForwardContext,
  site: Site,
  x: tf.Tensor2D,
  names: FeedForwardNames,
  function_: Activation,
): SiteValues {
  const product = (rows: tf.Tensor2D, weight: string, bias?: string): tf.Tensor2D => {
    const b = bias === undefined ? undefined : context.vector(bias);
    return linear(rows, context.matrix(weight), b, { transposed: names.layout === 'conv1d' });
  };
  const preActivation =
    names.gate === undefined ? product(x, names.up, names.upBias) : product(x, names.gate);
  const activation = activate(preActivation, function_);
  const hidden =
    names.gate === undefined
      ? activation
      : tf.mul<tf.Tensor2D>(activation, product(x, names.up, names.upBias));
  const multiplied = context.options.edit?.(site, x, hidden) ?? hidden;
  const output = product(multiplied, names.down, names.downBias);
  return { input: x, preActivation, activation, hidden, output };
}

/** The first position of each sequence: x [B·T, d] → [B, d]. */
export function firstPosition(x: tf.Tensor2D, batch: number): tf.Tensor2D {
  const d = x.shape[1];
  const sequences = tf.reshape<tf.Rank.R2>(x, [batch, x.size / batch]);
  return tf.slice2d(sequences, [0, 0], [batch, d]);
}

/**
 * The batch as text, its shape checked, and the positions in the cache that precede it.
 *
 * @throws `INPUT_INVALID` if it is images, has the wrong shape, or is longer than the model's positions.
 */
export function textBatch(
  batch: Batch,
  maxPositions: number,
  cache?: KeyValueCache,
): TextBatch & { past: number } {
  if (!('inputIds' in batch)) {
    throw new D2DMoEError('INPUT_INVALID', 'A text model needs inputIds, but got pixelValues.');
  }
  const shape = batch.inputIds.shape;
  if (shape.length !== 2) {
    throw new D2DMoEError(
      'INPUT_INVALID',
      `inputIds has shape [${(shape as number[]).join(', ')}], but must be [batch, positions].`,
    );
  }
  const past = cachedPositions(cache, shape[0]);
  const after = past === 0 ? '' : ` after ${past} cached ones`;
  if (past + shape[1] > maxPositions) {
    throw new D2DMoEError(
      'INPUT_INVALID',
      `inputIds has ${shape[1]} positions${after}, but the model has at most ${maxPositions}.`,
    );
  }
  for (const field of ['attentionMask', 'tokenTypeIds'] as const) {
    const other = batch[field]?.shape;
    if (other !== undefined && (other[0] !== shape[0] || other[1] !== past + shape[1])) {
      throw new D2DMoEError(
        'INPUT_INVALID',
        `${field} has shape [${other.join(', ')}], but must be that of inputIds${past === 0 ? '' : ' and the cached positions'}, [${shape[0]}, ${past + shape[1]}].`,
      );
    }
  }
  return { ...batch, past };
}

/**
 * The batch as images, its shape checked.
 * @throws `INPUT_INVALID` if it is text or not [B, channels, size, size].
 */
export function imageBatch(batch: Batch, channels: number, size: number): ImageBatch {
  if (!('pixelValues' in batch)) {
    throw new D2DMoEError('INPUT_INVALID', 'A vision model needs pixelValues, but got inputIds.');
  }
  const shape = batch.pixelValues.shape;
  if (shape.length !== 4 || shape[1] !== channels || shape[2] !== size || shape[3] !== size) {
    throw new D2DMoEError(
      'INPUT_INVALID',
      `pixelValues has shape [${(shape as number[]).join(', ')}], but must be [batch, ${channels}, ${size}, ${size}].`,
    );
  }
  return batch;
}
