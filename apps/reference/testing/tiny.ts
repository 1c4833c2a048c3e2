import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Random } from '@d2dmoe/core';
import type { ModelType } from '@d2dmoe/models';
import sharp from 'sharp';
import { onTestFinished } from 'vitest';

const fixtures = fileURLToPath(new URL('../../../tools/fixtures', import.meta.url));

/** The models' vocabulary: special tokens, then the words that the data are made of. */
const special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]'];
const words = Array.from({ length: 56 }, (_, i) => `w${i}`);
export const vocabulary = [...special, ...words];

/** Classes of the tiny ViT and of the tiny BERT. */
const classes = { vit: 5, bert: 4 } as const;

/** A tokenizer.json that knows whole words; `template` adds BERT's [CLS] and [SEP]. */
function wordLevel(template: boolean) {
  const token = (id: string) => [id, { id, ids: [vocabulary.indexOf(id)], tokens: [id] }];
  return {
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
    normalizer: null,
    pre_tokenizer: { type: 'Whitespace' },
    post_processor: template
      ? {
          type: 'TemplateProcessing',
          single: [
            { SpecialToken: { id: '[CLS]', type_id: 0 } },
            { Sequence: { id: 'A', type_id: 0 } },
            { SpecialToken: { id: '[SEP]', type_id: 0 } },
          ],
          pair: [],
          special_tokens: Object.fromEntries([token('[CLS]'), token('[SEP]')]),
        }
      : null,
    decoder: null,
    model: {
      type: 'WordLevel',
      unk_token: '[UNK]',
      vocab: Object.fromEntries(vocabulary.map((word, id) => [word, id])),
    },
  };
}

const preprocessor = {
  image_processor_type: 'ViTImageProcessor',
  do_resize: true,
  size: { height: 16, width: 16 },
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};

/** A temporary folder that goes with the test, or where `keep` is given when its caller removes it. */
export async function temporaryFolder(keep = false): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'd2dmoe-app-'));
  if (!keep) onTestFinished(() => rm(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes files, texts or objects as JSON, by their paths inside `folder`. */
export async function put(folder: string, files: Record<string, unknown>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    const path = join(folder, name);
    await mkdir(dirname(path), { recursive: true });
    const raw = typeof content === 'string' || content instanceof Uint8Array;
    await writeFile(path, raw ? content : JSON.stringify(content));
  }
}

/** Writes the recorded tiny model of an architecture as a checkpoint folder, with what reads its data. */
export async function putCheckpoint(folder: string, type: ModelType): Promise<void> {
  await mkdir(folder, { recursive: true });
  for (const file of ['config.json', 'model.safetensors']) {
    await cp(join(fixtures, `tiny-${type}`, file), join(folder, file));
  }
  await put(
    folder,
    type === 'vit'
      ? { 'preprocessor_config.json': preprocessor }
      : { 'tokenizer.json': wordLevel(type === 'bert') },
  );
}

/** Writes a small data set that the tiny model of an architecture can learn, in all three splits. */
export async function putData(folder: string, type: ModelType): Promise<void> {
  const random = new Random(1).fork(type);
  const counts = { train: 80, validation: 24, test: 40 };
  for (const [split, count] of Object.entries(counts)) {
    const numbers = Array.from({ length: count }, (_, i) => i);
    switch (type) {
      case 'vit':
        for (const i of numbers) {
          const label = i % classes.vit;
          await put(folder, { [`${split}/LABEL_${label}/${i}.png`]: await png(label, random) });
        }
        break;
      case 'bert':
        await put(folder, { [`${split}.jsonl`]: jsonl(numbers.map((i) => text(i, random))) });
        break;
      default:
        await put(folder, {
          [`${split}.txt`]: numbers.map(() => sentence(16, random)).join('\n'),
        });
    }
  }
}

/** Rows as the lines of a JSONL file. */
export const jsonl = (rows: readonly object[]) =>
  rows.map((row) => `${JSON.stringify(row)}\n`).join('');

/** An image whose class is its shade, with noise. */
function png(label: number, random: Random): Promise<Buffer> {
  const pixels = Uint8Array.from({ length: 16 * 16 * 3 }, () => 45 * label + random.integer(40));
  return sharp(pixels, { raw: { width: 16, height: 16, channels: 3 } })
    .png()
    .toBuffer();
}

/** A text of 1 to 20 words whose class is that of its first word. */
function text(i: number, random: Random): { text: string; label: number } {
  const label = i % classes.bert;
  return { text: `w${label} ${sentence(random.integer(20), random)}`, label };
}

/** Words of which each is one of three that may follow the one before. */
function sentence(length: number, random: Random): string {
  let word = random.integer(words.length);
  return Array.from({ length }, () => {
    word = (3 * word + random.integer(3)) % words.length;
    return words[word];
  }).join(' ');
}
