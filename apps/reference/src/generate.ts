import { setImmediate } from 'node:timers/promises';
import { Random } from '@d2dmoe/core';
import { generationCost } from '@d2dmoe/evaluation';
import { generate as generateIds, type SamplingOptions } from '@d2dmoe/models';
import { loadTokenizer, readEosTokenIds, TextStream } from '@d2dmoe/models/node';
import { runModel } from './run-model.js';
import type { SelectionArguments } from './selection.js';

/** What {@link generate} takes; those of sampling as in transformers. */
export interface GenerateOptions extends Omit<SamplingOptions, 'random'>, SelectionArguments {
  /** Folder of a language model, dense or converted, with its tokenizer.json. */
  checkpoint: string;
  prompt: string;
  /** By default as many as the context has room for. */
  maxNewTokens?: number;
  /** The id that ends the text, −1 for none; by default what generation_config.json or config.json says. */
  eosTokenId?: number;
  /** Seed of `doSample`; default 0. */
  seed?: number;
  /** Receives the text as it grows, whole characters only. */
  onText?: (text: string) => void;
  /** Ends the generation: the promise is rejected with the signal's reason. */
  signal?: AbortSignal;
}

/** What {@link generate} gives. */
export interface GenerateResult {
  /** The text behind the prompt. */
  text: string;
  /** New tokens, one that ended the text included. */
  tokens: number;
  /** Of all passes, the prompt's included; loading is not. */
  seconds: number;
  /** Multiply-adds executed, relative to the dense model on the same tokens. */
  cost: number;
}

/**
 * Goes on with a text. A tfjs backend must have been chosen, see `useDevice`.
 *
 * @throws D2DMoEError `INPUT_INVALID` for a checkpoint that generates no text and for a prompt that is empty or longer
 *   than the context; `GENERATION_INVALID` for options; `NOT_CONVERTED`; what loading throws
 */
export async function generate(options: GenerateOptions): Promise<GenerateResult> {
  const {
    checkpoint,
    prompt,
    cost,
    keep,
    point,
    tau,
    storage,
    eosTokenId,
    seed = 0,
    onText,
    signal,
    ...sampling
  } = options;
  const selection = { cost, keep, point, tau, storage };
  const running = await runModel(checkpoint, ['text-generation'], selection);
  const { model } = running;
  try {
    const tokenizer = await loadTokenizer(checkpoint);
    const ends = eosTokenId === undefined ? await readEosTokenIds(checkpoint) : [eosTokenId];
    const ids = tokenizer.encode(prompt);
    const stream = new TextStream(tokenizer, ids);
    let text = '';
    let tokens = 0;
    const give = (piece: string) => {
      text += piece;
      if (piece !== '') onText?.(piece);
    };
    const start = performance.now();
    for await (const [id] of generateIds(model, [ids], {
      ...sampling,
      ...running.options,
      eosTokenId: ends,
      ...(sampling.doSample && { random: new Random(seed) }),
    })) {
      tokens++;
      give(stream.push(id as number));
      // A pass takes no turn of the event loop, and an abort could never arrive.
      await setImmediate();
      signal?.throwIfAborted();
    }
    give(stream.end());
    const seconds = (performance.now() - start) / 1000;
    const executed = await running.executed();
    const { relativeTotal } = generationCost(model, {
      promptTokens: ids.length,
      newTokens: tokens,
      ...(executed && { executed }),
    });
    return { text, tokens, seconds, cost: relativeTotal };
  } finally {
    running.dispose();
  }
}
