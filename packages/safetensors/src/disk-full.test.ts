import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { writeFileAtomic, writeSafetensors } from './node.js';

/** What the file handles that the code under test opens fail at, and how. */
const fault = vi.hoisted(() => ({ method: '', code: '' }));

vi.mock('node:fs/promises', async (importOriginal) => {
  const actual = await importOriginal<typeof fs>();
  return {
    ...actual,
    async open(...args: Parameters<typeof actual.open>) {
      const handle = await actual.open(...args);
      return new Proxy(handle, {
        get(target, property) {
          if (property === fault.method) {
            const error = Object.assign(new Error(`${fault.code}: ${fault.method}`), {
              code: fault.code,
            });
            return () => Promise.reject(error);
          }
          const value: unknown = Reflect.get(target, property, target);
          return typeof value === 'function' ? value.bind(target) : value;
        },
      });
    },
  };
});

let folder: string;

beforeEach(async () => {
  folder = await fs.mkdtemp(join(tmpdir(), 'safetensors-'));
});

afterEach(async () => {
  fault.method = '';
  await fs.rm(folder, { recursive: true });
});

test.each([
  ['write', 'ENOSPC', 'DISK_FULL', /disk is full/],
  ['write', 'EDQUOT', 'DISK_FULL', /disk is full/],
  ['sync', 'ENOSPC', 'DISK_FULL', /disk is full/],
  ['write', 'EIO', 'WRITE_FAILED', /EIO/],
  ['sync', 'EIO', 'WRITE_FAILED', /EIO/],
])('%s fails with %s: %s, nothing lost, nothing left', async (method, code, expected, sentence) => {
  const path = join(folder, 'model.safetensors');
  await writeFileAtomic(path, 'old');
  Object.assign(fault, { method, code });
  const entry = { name: 'x', dtype: 'F32', shape: [1], data: new Float32Array(1) } as const;
  for (const attempt of [() => writeSafetensors(path, [entry]), () => writeFileAtomic(path, 'n')]) {
    const error = await attempt().catch((error: unknown) => error);
    expect(error).toMatchObject({ name: 'D2DMoEError', code: expected });
    expect((error as Error).message).toMatch(sentence);
    expect((error as Error).message).toContain(path);
  }
  expect(await fs.readFile(path, 'utf8')).toBe('old');
  expect(await fs.readdir(folder)).toEqual(['model.safetensors']);
});
