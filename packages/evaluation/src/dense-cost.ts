import { D2DMoEError } from '@d2dmoe/core';
import type { ModelShape } from '@d2dmoe/models';

/** Multiply-adds of one sample's dense forward pass, by where they are spent. */
export interface DenseCost {
  /** Patch projection; 0 for a model that looks its token embeddings up. */
  embedding: number;
  /** Query, key, value and output projections of every layer. */
  projections: number;
  /** Attention scores and weighted values, counted over the full T × T square, causal or not. */
  attention: number;
  /** FFNs of every layer. */
  feedForward: number;
  /** Pooler, and the classifier at one position or the LM head at every position. */
  head: number;
  /** Sum of the above. */
  total: number;
}

/**
 * Multiply-adds of one sample of `tokens` tokens through the dense model: matrix products only, one multiply-add
 * counting 1, as Szatkowski et al. 2024 count. Biases, norms, activations, softmax and embedding look-ups are left
 * out; patch projection, pooler and classifier are included.
 *
 * @param tokens Sequence length T, with the class token of a ViT, without padding.
 * @throws D2DMoEError `EVALUATION_LENGTH` where `tokens` is not a positive integer.
 */
export function denseCost(shape: ModelShape, tokens: number): DenseCost {
  if (!Number.isInteger(tokens) || tokens < 1) {
    throw new D2DMoEError(
      'EVALUATION_LENGTH',
      `A sample's length must be a positive number of tokens, not ${tokens}.`,
    );
  }
  const matrices = matrixParameters(shape);
  // The class token is no patch and passes no projection.
  const embedding = shape.patchInputs === 0 ? 0 : (tokens - 1) * matrices.embedding;
  const projections = tokens * matrices.projections;
  const attention = shape.layers * 2 * tokens * tokens * shape.heads * shape.headDim;
  const feedForward = tokens * matrices.feedForward;
  const outputPositions = shape.outputPositions === 'all' ? tokens : 1;
  const head = matrices.pooler + outputPositions * matrices.output;
  const total = embedding + projections + attention + feedForward + head;
  return { embedding, projections, attention, feedForward, head, total };
}

/** Parameters of a dense model's weight matrices, all layers together. */
export interface MatrixParameters {
  /** Patch projection, 0 for text. */
  embedding: number;
  /** Query, key, value and output projections of attention. */
  projections: number;
  /** The FFNs' matrices: two, of a GLU three. */
  feedForward: number;
  /** 0 where there is none. */
  pooler: number;
  /** Classifier or LM head, tied or not. */
  output: number;
  /** Sum of the others. */
  total: number;
}

/** Parameters of the matrices whose products {@link denseCost} counts; no biases, norms or looked-up embeddings. */
export function matrixParameters(shape: ModelShape): MatrixParameters {
  const { dModel, layers, heads, kvHeads, headDim, hidden, gated } = shape;
  const embedding = shape.patchInputs * dModel;
  const projections = layers * dModel * headDim * (2 * heads + 2 * kvHeads);
  const feedForward = layers * dModel * hidden * (gated ? 3 : 2);
  const pooler = shape.pooler ? dModel * dModel : 0;
  const output = dModel * shape.outputs;
  const total = embedding + projections + feedForward + pooler + output;
  return { embedding, projections, feedForward, pooler, output, total };
}
