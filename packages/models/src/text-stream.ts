import type { Tokenizer } from './tokenizer.js';

/**
 * Turns ids that arrive one by one into the text that they add. A character whose bytes are spread over several tokens
 * is held back until it is complete. The pieces joined are the text of all ids, its spaces as the tokens have them.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  /** Ids already turned into text that the next ones are decoded behind: some decoders strip a text's first space. */
  #context: readonly number[];
  #pending: number[] = [];
  /** Characters of the pending ids that were given out already. */
  #given = 0;

  /** @param context The ids before the stream, such as a prompt. */
  constructor(tokenizer: Tokenizer, context: readonly number[] = []) {
    this.#tokenizer = tokenizer;
    this.#context = context;
  }

  /** The text that is complete with one more id; empty while there is none. */
  push(id: number): string {
    this.#pending.push(id);
    const text = this.#pendingText();
    // An incomplete character has at most three bytes, and each may have been decoded to a replacement character.
    const complete = text.replace(/\uFFFD{1,3}$/, '');
    const piece = complete.slice(this.#given);
    // What decodes to nothing, a special token, gives no context to decode behind.
    if (complete === text && text !== '') {
      this.#context = this.#pending;
      this.#pending = [];
      this.#given = 0;
    } else {
      this.#given = Math.max(this.#given, complete.length);
    }
    return piece;
  }

  /** What is still held back, incomplete characters as U+FFFD. */
  end(): string {
    const piece = this.#pendingText().slice(this.#given);
    this.#context = this.#pending;
    this.#pending = [];
    this.#given = 0;
    return piece;
  }

  #pendingText(): string {
    return this.#decode([...this.#context, ...this.#pending]).slice(
      this.#decode(this.#context).length,
    );
  }

  #decode(ids: readonly number[]): string {
    return this.#tokenizer.decode(ids, { cleanUpTokenizationSpaces: false });
  }
}
