import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import * as huggingFace from '@huggingface/tokenizers';
import { readJsonObject } from './files.js';

/** What is used of the package's class, whose own declarations Node's module resolution does not find. */
interface HuggingFaceTokenizer {
  encode(text: string, options?: { add_special_tokens?: boolean }): { ids: number[] };
  decode(
    ids: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces?: boolean },
  ): string;
}

/** Text to token ids and back, as a checkpoint's tokenizer.json says. */
export interface Tokenizer {
  /**
   * The ids of a text, with the special tokens that the tokenizer's template adds (BERT's [CLS] and [SEP]).
   *
   * @param options.maxLength At most so many ids: the text is cut at its end, the special tokens stay.
   */
  encode(text: string, options?: { maxLength?: number }): number[];
  /**
   * The text of ids, special tokens left out.
   *
   * @param options.cleanUpTokenizationSpaces Whether spaces before punctuation go; by default as
   *   tokenizer_config.json says, and where it does not, yes.
   */
  decode(ids: readonly number[], options?: { cleanUpTokenizationSpaces?: boolean }): string;
}

/**
 * Loads tokenizer.json, and tokenizer_config.json where there is one.
 *
 * @throws D2DMoEError `FILE_MISSING`, `JSON_INVALID`, `TOKENIZER_INVALID`
 */
export async function loadTokenizer(directory: string): Promise<Tokenizer> {
  const path = join(directory, 'tokenizer.json');
  const definition = await readJsonObject(path);
  const config = await readJsonObject(join(directory, 'tokenizer_config.json')).catch(
    (error: unknown) => {
      if (D2DMoEError.isInstance(error) && error.code === 'FILE_MISSING') return {};
      throw error;
    },
  );
  let tokenizer: HuggingFaceTokenizer;
  try {
    tokenizer = new huggingFace.Tokenizer(definition, config) as HuggingFaceTokenizer;
  } catch (error) {
    throw new D2DMoEError(
      'TOKENIZER_INVALID',
      `${path} is not a tokenizer that can be used: ${(error as Error).message}.`,
      { cause: error },
    );
  }
  return {
    encode(text, { maxLength = Infinity } = {}) {
      const { ids } = tokenizer.encode(text);
      if (ids.length <= maxLength) return ids;
      const bare = tokenizer.encode(text, { add_special_tokens: false }).ids;
      const special = ids.length - bare.length;
      if (special > maxLength) {
        throw new D2DMoEError(
          'INPUT_INVALID',
          `maxLength is ${maxLength}, but the tokenizer adds ${special} special tokens to every text.`,
        );
      }
      let start = 0;
      while (!bare.every((id, i) => ids[start + i] === id)) start++;
      return [
        ...ids.slice(0, start),
        ...bare.slice(0, maxLength - special),
        ...ids.slice(start + bare.length),
      ];
    },
    decode(ids, { cleanUpTokenizationSpaces: cleanUp } = {}) {
      if (ids.length === 0) return '';
      return tokenizer.decode([...ids], {
        skip_special_tokens: true,
        ...(cleanUp !== undefined && { clean_up_tokenization_spaces: cleanUp }),
      });
    },
  };
}
