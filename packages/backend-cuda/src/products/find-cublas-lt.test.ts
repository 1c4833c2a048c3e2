import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { openCublasLt } from './cublas-lt.js';
import { cublasLtCandidates } from './find-cublas-lt.js';

test.skipIf(process.platform === 'win32')(
  'the named file comes first, then torch’s of a Python in PATH',
  () => {
    const root = mkdtempSync(join(tmpdir(), 'cublas-lt-'));
    try {
      const folder = join(root, 'lib/python3.12/site-packages/nvidia/cu13/lib');
      mkdirSync(folder, { recursive: true });
      mkdirSync(join(root, 'bin'));
      writeFileSync(join(root, 'bin/python3'), '');
      writeFileSync(join(folder, 'libcublasLt.so.13'), '');
      const found = [
        ...cublasLtCandidates({
          D2DMOE_LIBCUBLASLT: '/named.so',
          PATH: `/absent:${join(root, 'bin')}`,
        }),
      ];
      expect(found.slice(0, 3)).toEqual(['/named.so', 'libcublasLt.so.13', 'libcublasLt.so.12']);
      expect(found.at(-1)).toBe(join(folder, 'libcublasLt.so.13'));
    } finally {
      rmSync(root, { recursive: true });
    }
  },
);

test('a library that is not there is no error, unless it was named', () => {
  expect(openCublasLt(['/absent/libcublasLt.so.13'])).toBeUndefined();
  process.env['D2DMOE_LIBCUBLASLT'] = '/absent/libcublasLt.so.13';
  try {
    expect(() => openCublasLt()).toThrow(/D2DMOE_LIBCUBLASLT names \/absent\/libcublasLt.so.13/);
  } finally {
    delete process.env['D2DMOE_LIBCUBLASLT'];
  }
});
