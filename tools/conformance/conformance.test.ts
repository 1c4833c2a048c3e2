import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { hasCompiler } from '../../packages/backend-cuda/testing/emulated.js';

const runner = fileURLToPath(new URL('run.mjs', import.meta.url));

test.skipIf(!hasCompiler)(
  "tfjs-core's own suite passes on the emulated cuda backend (needs g++)",
  { timeout: 900_000 },
  () => {
    const folder = mkdtempSync(join(tmpdir(), 'd2dmoe-conformance-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    const json = join(folder, 'result.json');
    const { status, stdout } = spawnSync(process.execPath, [runner, '--emulated', '--json', json], {
      encoding: 'utf8',
    });
    expect({ status, stdout }).toMatchObject({ status: 0 });
    const { specs } = JSON.parse(readFileSync(json, 'utf8')) as { specs: { status: string }[] };
    const count = (status: string) => specs.filter((spec) => spec.status === status).length;
    expect(count('passed')).toBeGreaterThan(4200);
    expect(count('failed')).toBe(0);
  },
);
