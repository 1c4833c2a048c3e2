import type { Tokenizer } from '@d2dmoe/models/node';

/**
 * The token ids of examples, each encoded once however many stages and passes ask for them: encoding a text takes longer
 * than a small model on a fast device does for it.
 *
 * @param options.maxLength At most so many ids, see {@link Tokenizer}.
 */
export function tokenIds(
  tokenizer: Pick<Tokenizer, 'encode'>,
  options: { maxLength?: number } = {},
): (example: { text: string }) => Int32Array {
  const known = new WeakMap<object, Int32Array>();
  return (example) => {
    let ids = known.get(example);
    if (ids === undefined) {
      ids = Int32Array.from(tokenizer.encode(example.text, options));
      known.set(example, ids);
    }
    return ids;
  };
}
