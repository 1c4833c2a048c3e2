import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { KeyValueCache } from './cache.js';
import type { Model } from './model.js';
import { checkSampling, chooseTokens, type SamplingOptions } from './sampling.js';
import type { ForwardOptions } from './site.js';

/** Options of {@link generate}; names as in transformers' `generate`. Greedy unless `doSample` is set. */
export interface GenerateOptions extends SamplingOptions {
  /** At least 1; by default as many as the model's positions allow. */
  maxNewTokens?: number;
  /** Ids that end a sequence; none by default. */
  eosTokenId?: number | readonly number[];
  /** Keep keys and values of earlier positions instead of computing them again for every token; default true. */
  useCache?: boolean;
  /** As in {@link ForwardOptions}: what runs a converted model's selected experts. */
  substitute?: ForwardOptions['substitute'];
}

/**
 * Generates text: yields, token by token, the next id of each sequence of the batch. It ends after `maxNewTokens`, at
 * the model's last position, or when every sequence has ended; one that ends earlier than others goes on with the id
 * that ended it. Nothing is read back to the host but the chosen ids. Leaving the loop early frees everything.
 *
 * @param inputIds The prompts, all of the same length: at least 1 token, and fewer than the model's positions.
 * @throws D2DMoEError `INPUT_INVALID` for a classifier, and for prompts that are empty, of different lengths, too long
 *   or not in the vocabulary; `GENERATION_INVALID` for options
 */
export async function* generate(
  model: Model,
  inputIds: readonly (readonly number[])[],
  options: GenerateOptions = {},
): AsyncGenerator<number[], void, undefined> {
  const { maxNewTokens = Infinity, eosTokenId = [], useCache = true, substitute } = options;
  const { maxPositions } = model.shape;
  checkSampling(options);
  if (!(maxNewTokens >= 1)) {
    throw new D2DMoEError(
      'GENERATION_INVALID',
      `maxNewTokens must be at least 1, not ${maxNewTokens}.`,
    );
  }
  checkPrompts(model, inputIds);
  const ends = new Set([eosTokenId].flat());
  const sequences = inputIds.map((ids) => [...ids]);
  const cache = useCache ? new KeyValueCache() : undefined;
  const ended = sequences.map(() => false);
  let batch: readonly (readonly number[])[] = sequences;
  try {
    for (
      let count = 0;
      count < maxNewTokens && (sequences[0] as number[]).length < maxPositions;
      count++
    ) {
      const next = tf.tidy(() => {
        const { logits } = model.forward(
          { inputIds: tf.tensor2d(batch as number[][], undefined, 'int32') },
          { ...(cache && { cache }), ...(substitute && { substitute }) },
        );
        return chooseTokens(lastPosition(logits as tf.Tensor3D), sequences, options);
      });
      const chosen = Array.from(await next.data());
      next.dispose();
      for (const [row, sequence] of sequences.entries()) {
        if (ended[row]) chosen[row] = sequence.at(-1) as number;
        ended[row] = ends.has(chosen[row] as number);
        sequence.push(chosen[row] as number);
      }
      yield chosen;
      if (ended.every(Boolean)) return;
      batch = cache === undefined ? sequences : chosen.map((id) => [id]);
    }
  } finally {
    cache?.dispose();
  }
}

/** [B, T, vocabulary] → [B, vocabulary] */
function lastPosition(logits: tf.Tensor3D): tf.Tensor2D {
  const [rows, positions, vocabulary] = logits.shape;
  const last = tf.slice3d(logits, [0, positions - 1, 0], [rows, 1, vocabulary]);
  return tf.reshape(last, [rows, vocabulary]);
}

function checkPrompts(model: Model, prompts: readonly (readonly number[])[]): void {
  const { task, shape } = model;
  const refuse = (message: string) => {
    throw new D2DMoEError('INPUT_INVALID', message);
  };
  if (task !== 'text-generation') refuse(`This model is for ${task}: it generates no text.`);
  const length = prompts[0]?.length ?? 0;
  if (length === 0) refuse('The prompt is empty, but has to have at least one token.');
  if (prompts.some((ids) => ids.length !== length)) {
    refuse('The prompts of a batch must have the same number of tokens.');
  }
  if (length >= shape.maxPositions) {
    refuse(
      `The prompt has ${length} tokens, but the model's context of ${shape.maxPositions} takes at most ${shape.maxPositions - 1} and the first new one.`,
    );
  }
  const wrong = prompts
    .flat()
    .find((id) => !(Number.isInteger(id) && id >= 0 && id < shape.outputs));
  if (wrong !== undefined) {
    refuse(`The prompt has the token ${wrong}, but the vocabulary ends at ${shape.outputs - 1}.`);
  }
}
