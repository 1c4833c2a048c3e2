import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));
const hasNvcc = spawnSync('nvcc', ['--version']).error === undefined;

function build(env: Record<string, string> = {}) {
  const script = [`${root}tools/build-cuda.mjs`, 'convert'];
  const options = { encoding: 'utf8', env: { ...process.env, ...env } } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, script, options);
  return { status, said: stdout.trim(), stderr };
}

test('without nvcc one sentence says what is missing, and the build goes on', () => {
  const { status, said } = build({ D2DMOE_NVCC: '/nowhere/nvcc' });
  expect(status).toBe(0);
  expect(said).toMatch(/^The CUDA kernels were not built: \/nowhere\/nvcc is missing .*\.$/);
});

describe.skipIf(!hasNvcc)('building PTX (needs nvcc)', () => {
  test('kernels are compiled for drivers of CUDA 12 too, and not again without need', () => {
    expect(build()).toMatchObject({ status: 0, stderr: '' });
    expect(build()).toEqual({ status: 0, said: '', stderr: '' });
    const ptx = readFileSync(`${root}packages/backend-cuda/dist/ptx/convert.ptx`, 'utf8');
    expect(ptx).toMatch(/^\.version 8\.0$/m);
    expect(ptx).toMatch(/^\.target sm_80$/m);
    expect(ptx).toMatch(/\.visible \.entry convert_f32_to_bf16\(/);
  });
});
