import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { temporaryFolder } from '../testing/folder.js';
import { loadTokenizer } from './tokenizer.js';

const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]'];
const vocabulary = [...special, 'the', 'cat', 'sat', 'un', '##believ', '##able', '.'];

/** A WordPiece tokenizer.json as BERT's, but for its vocabulary. */
const wordPiece = {
  version: '1.0',
  truncation: null,
  padding: null,
  added_tokens: special.map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: {
    type: 'BertNormalizer',
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase: true,
  },
  pre_tokenizer: { type: 'BertPreTokenizer' },
  post_processor: {
    type: 'TemplateProcessing',
    single: [
      { SpecialToken: { id: '[CLS]', type_id: 0 } },
      { Sequence: { id: 'A', type_id: 0 } },
      { SpecialToken: { id: '[SEP]', type_id: 0 } },
    ],
    pair: [],
    special_tokens: {
      '[CLS]': { id: '[CLS]', ids: [2], tokens: ['[CLS]'] },
      '[SEP]': { id: '[SEP]', ids: [3], tokens: ['[SEP]'] },
    },
  },
  decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
  model: {
    type: 'WordPiece',
    unk_token: '[UNK]',
    continuing_subword_prefix: '##',
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
  },
};

const folderWith = (files: Record<string, string>) => {
  const directory = temporaryFolder();
  for (const [name, text] of Object.entries(files)) writeFileSync(join(directory, name), text);
  return directory;
};

test('a text becomes ids with the special tokens, and back', async () => {
  const tokenizer = await loadTokenizer(
    folderWith({ 'tokenizer.json': JSON.stringify(wordPiece) }),
  );
  expect(tokenizer.encode('The unbelievable dog sat.')).toEqual([2, 4, 7, 8, 9, 1, 6, 10, 3]);
  expect(tokenizer.decode([2, 4, 7, 8, 9, 5, 6, 10, 3])).toBe('the unbelievable cat sat.');
});

test('a text that is too long loses its end but not the special tokens', async () => {
  const tokenizer = await loadTokenizer(
    folderWith({ 'tokenizer.json': JSON.stringify(wordPiece) }),
  );
  const text = 'the unbelievable cat sat';
  expect(tokenizer.encode(text, { maxLength: 8 })).toEqual([2, 4, 7, 8, 9, 5, 6, 3]);
  expect(tokenizer.encode(text, { maxLength: 5 })).toEqual([2, 4, 7, 8, 3]);
  expect(tokenizer.encode(text, { maxLength: 2 })).toEqual([2, 3]);
  expect(() => tokenizer.encode(text, { maxLength: 1 })).toThrow(/adds 2 special tokens/);
});

test('files that are missing or no tokenizer are named', async () => {
  await expect(loadTokenizer(folderWith({}))).rejects.toThrow(/tokenizer.json does not exist/);
  await expect(loadTokenizer(folderWith({ 'tokenizer.json': 'not JSON' }))).rejects.toThrow(
    expect.objectContaining({ code: 'JSON_INVALID' }),
  );
  await expect(loadTokenizer(folderWith({ 'tokenizer.json': '{}' }))).rejects.toThrow(
    expect.objectContaining({ code: 'TOKENIZER_INVALID' }),
  );
  const files = { 'tokenizer.json': JSON.stringify(wordPiece), 'tokenizer_config.json': '[' };
  await expect(loadTokenizer(folderWith(files))).rejects.toThrow(
    /tokenizer_config.json is not JSON/,
  );
});
