import { copyFileSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from './paths.mjs';

/**
 * Makes a folder that the READMEs' examples can run in: it has the checkpoints and the data that they name.
 *
 * @param d2dmoe runs the command with these arguments, in that folder
 */
export async function exampleFolder(
  d2dmoe: (args: string[], folder: string) => Promise<unknown>,
): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'd2dmoe-examples-'));
  const checkpoint = join(folder, 'bert-mini-emotion');
  mkdirSync(checkpoint);
  for (const file of ['config.json', 'model.safetensors']) {
    copyFileSync(`${root}/tools/fixtures/tiny-bert/${file}`, join(checkpoint, file));
  }
  const words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'i', 'feel', 'so', 'happy', 'sad'];
  const tokenizer = {
    version: '1.0',
    added_tokens: words.slice(0, 4).map((content, id) => ({ id, content, special: true })),
    normalizer: { type: 'Lowercase' },
    pre_tokenizer: { type: 'WhitespaceSplit' },
    post_processor: null,
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(words.map((word, id) => [word, id])),
    },
  };
  writeFileSync(join(checkpoint, 'tokenizer.json'), JSON.stringify(tokenizer));

  const data = join(folder, 'emotion');
  mkdirSync(data);
  const rows = Array.from({ length: 128 }, (_, i) => ({
    text: `i feel${' so'.repeat(i % 3)} ${i % 2 ? 'sad' : 'happy'}`,
    label: i % 2,
  }));
  for (const split of ['train', 'validation', 'test']) {
    const lines = rows.map((row) => `${JSON.stringify(row)}\n`).join('');
    writeFileSync(join(data, `${split}.jsonl`), lines);
  }
  const steps = ['--device', 'wasm', '--steps', '1', '--router-steps', '1', '--tau', '0,0.5'];
  const paths = ['bert-mini-emotion', '--data', 'emotion', '--out', 'bert-converted'];
  await d2dmoe(['convert', ...paths, ...steps], folder);
  return folder;
}
