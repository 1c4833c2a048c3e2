/**
 * The tokenizer.json of a byte-level tokenizer without merges: byte b is the token b, and there are no special tokens.
 */
export function byteTokenizer(): Record<string, unknown> {
  // GPT-2's printable stand-ins: bytes that print stand for themselves, the others for U+0100 onwards.
  const prints = (byte: number) =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 0x100;
  const vocab: Record<string, number> = {};
  for (let byte = 0; byte < 256; byte++) {
    vocab[String.fromCodePoint(prints(byte) ? byte : next++)] = byte;
  }
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: {
      type: 'ByteLevel',
      add_prefix_space: false,
      trim_offsets: true,
      use_regex: true,
    },
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', vocab, merges: [] },
  };
}
