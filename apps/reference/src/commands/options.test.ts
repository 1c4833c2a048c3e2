import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { LoopbackHub } from '../../testing/loopback-hub.js';
import { putCheckpoint, putData, temporaryFolder } from '../../testing/tiny.js';
import { inspectCommand } from './inspect.js';
import { withFolders } from './options.js';

/** The files of a folder by path. */
async function contents(folder: string): Promise<Record<string, Uint8Array>> {
  const entries = await readdir(folder, { withFileTypes: true });
  return Object.fromEntries(
    await Promise.all(
      entries.map(async ({ name }) => [name, await readFile(join(folder, name))] as const),
    ),
  );
}

test('commands take ids on the hub in place of folders', async () => {
  const folder = await temporaryFolder();
  await putCheckpoint(join(folder, 'dense'), 'bert');
  await putData(join(folder, 'data'), 'bert');
  const hub = await LoopbackHub.start();
  vi.stubEnv('HF_HUB_CACHE', join(folder, 'cache'));
  vi.stubEnv('HF_ENDPOINT', hub.endpoint);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  hub.add({
    name: 'owner/bert',
    files: await contents(join(folder, 'dense')),
    lfs: ['model.safetensors'],
  });
  hub.add({ name: 'owner/words', type: 'dataset', files: await contents(join(folder, 'data')) });

  const { signal } = new AbortController();
  const given = { ckpt: join(folder, 'dense'), dense: 'owner/bert', data: 'owner/words', seed: 3 };
  const named = await withFolders(given, { signal });
  expect(named).toMatchObject({ ckpt: given.ckpt, seed: 3 });
  expect(Object.keys(await contents(named.data)).sort()).toEqual([
    'test.jsonl',
    'train.jsonl',
    'validation.jsonl',
  ]);
  expect(await contents(named.dense)).toEqual(await contents(given.ckpt));

  const log = vi.spyOn(console, 'log').mockReturnValue();
  await inspectCommand.run(['owner/bert@main'], { signal });
  expect(log.mock.calls[0]).toEqual(['bert, text-classification']);
});
