import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { emulatorEnvironment, hasCompiler } from '../../packages/backend-cuda/testing/emulated.js';
import { codeBlocks, type Document, documents, workspacePackages } from './documents.js';
import { root } from './paths.mjs';

const run = promisify(execFile);
/** Runs a script in the examples' folder. */
const node = (args: string[], env: Record<string, string> = {}) =>
  run(process.execPath, args, { cwd: folder, encoding: 'utf8', env: { ...process.env, ...env } });
const command = `${root}/apps/reference/dist/cli.js`;

/** The folder that examples run in: it has the checkpoints and the data that they name. */
let folder: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'd2dmoe-examples-'));
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

  if (!existsSync(command)) throw new Error('The examples need what `npm run build` makes.');
  const steps = ['--device', 'wasm', '--steps', '1', '--router-steps', '1', '--tau', '0,0.5'];
  const paths = ['bert-mini-emotion', '--data', 'emotion', '--out', 'bert-converted'];
  await node([command, 'convert', ...paths, ...steps]);
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.for(workspacePackages)(
  '$manifest.name: the first code block of its README runs as it is, on what is built',
  async (workspacePackage, { skip }) => {
    // Without a card the driver is emulated.
    const isCuda = workspacePackage.manifest.name === '@d2dmoe/backend-cuda';
    skip(isCuda && !hasCompiler, 'needs g++ for the CUDA emulator');
    const environment = isCuda ? await emulatorEnvironment() : {};
    const path = `${workspacePackage.folder}/README.md`;
    const [example] = codeBlocks(documents.find((document) => document.path === path) as Document);
    expect(example?.language).toBe('js');
    const code = example?.code as string;
    expect(code).toContain(`'${workspacePackage.manifest.name}`);
    expect(code.trim().split('\n').length).toBeLessThanOrEqual(17);

    // Where a file lies decides which packages it can import: in the package's own folder the package itself and what
    // it declares. `dist` is there once it is built, and nobody looks for sources in it.
    const place = mkdtempSync(`${root}/${workspacePackage.folder}/dist/example-`);
    try {
      writeFileSync(join(place, 'example.mjs'), code);
      const { stdout } = await node([join(place, 'example.mjs')], environment);
      expect(stdout.trim()).not.toBe('');
    } finally {
      rmSync(place, { recursive: true });
    }
  },
);
