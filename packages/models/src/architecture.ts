import type { Activation } from '@d2dmoe/kernels';
import type { Tensor, Tensor2D, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import type { ModelType } from './config.js';
import type { ForwardContext } from './forward.js';
import type { ProjectionRole, Site, SiteWidths } from './site.js';

/** What a model is for. */
export type Task = 'image-classification' | 'text-classification' | 'text-generation';

/** The numbers of an architecture that cost models and stages need. */
export interface ModelShape extends SiteWidths {
  /** Classes, or vocabulary entries of a language model. */
  outputs: number;
  /** Whether the head runs on the first position only or on all of them. */
  outputPositions: 'first' | 'all';
  /** Whether a dense tanh layer of dModel × dModel stands before the classifier. */
  pooler: boolean;
  /** Numbers in one image patch, channels · patch · patch; 0 for text. */
  patchInputs: number;
  /** The longest sequence; for images their patches and the class token. */
  maxPositions: number;
}

/** Input of a text model. */
export interface TextBatch {
  /** int32 [B, T] */
  inputIds: Tensor2D;
  /** int32 [B, T], with a cache [B, cached + T]; 1 for a token and 0 for padding; all tokens by default. */
  attentionMask?: Tensor2D;
  /** int32 [B, T], BERT only; segment 0 by default. */
  tokenTypeIds?: Tensor2D;
}

/** Input of a vision model. */
export interface ImageBatch {
  /** [B, channels, height, width], normalised as preprocessor_config.json says. */
  pixelValues: Tensor4D;
}

/** What a model runs on at once. */
export type Batch = TextBatch | ImageBatch;

/** Result of a forward pass; a type and not an interface, so that tf.tidy takes it for a container of tensors. */
export type ForwardResult = {
  /** Classifiers [B, classes]; language models [B, T, vocabulary]. */
  logits: Tensor;
  /**
   * If asked for: layers + 1 tensors [B, T, dModel], the embeddings and each layer's output. As in transformers, the
   * last one of GPT-2 and Gemma is after the final norm.
   */
  hiddenStates?: Tensor3D[];
};

/** A tensor of a checkpoint, named and oriented as Hugging Face does, and how it starts in a fresh model. */
export interface ParameterSpec {
  name: string;
  shape: number[];
  init: 'normal' | 'zeros' | 'ones';
}

/**
 * Names of an FFN's tensors. `linear` weights are PyTorch Linears [out, in]; `conv1d` ones are GPT-2's transposed
 * [in, out].
 */
export interface FeedForwardNames {
  layout: 'linear' | 'conv1d';
  up: string;
  upBias?: string;
  gate?: string;
  down: string;
  downBias?: string;
}

/** Names of an attention projection's tensors, in either of {@link FeedForwardNames}' layouts. */
export interface ProjectionNames {
  layout: 'linear' | 'conv1d';
  weight: string;
  bias?: string;
  /** The first of its outputs in a tensor that holds those of several projections side by side; 0 by default. */
  offset?: number;
}

/** What an architecture makes of a config.json: everything about a model but its weights. */
export interface Architecture {
  /** The config's `model_type`. */
  modelType: ModelType;
  /** What the head computes. */
  task: Task;
  /** Widths and counts that costs follow from. */
  shape: ModelShape;
  /** A classifier's labels, by class. */
  labels?: string[];
  /** Of the FFNs, for a GLU of its gate. */
  activation: Activation;
  /** The config.json fields that name the activation. */
  activationFields: readonly string[];
  /** Prefix that files of the base model, without its head, leave out of every name. */
  prefix: string;
  /** All tensors of the weights, those of replaced projections too; not the routers. */
  parameters: readonly ParameterSpec[];
  /** In the order in which the forward pass runs them. */
  sites: readonly Site[];
  /** Names of the tensors of a layer's FFN; `layer` counts from 0. */
  feedForward(layer: number): FeedForwardNames;
  /** Names of the tensors of a layer's projection, as the checkpoint has it. */
  projection(layer: number, role: ProjectionRole): ProjectionNames;
  /** The pass itself; see {@link Model.forward}. */
  forward(context: ForwardContext, batch: Batch): ForwardResult;
}
