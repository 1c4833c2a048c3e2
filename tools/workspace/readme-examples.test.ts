import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { emulatorEnvironment, hasCompiler } from '../../packages/backend-cuda/testing/emulated.js';
import { webgpuInfo } from '../../packages/backend-webgpu/src/node.js';
import { codeBlocks, type Document, documents, workspacePackages } from './documents.js';
import { exampleFolder } from './example-folder.js';
import { root } from './paths.mjs';

const run = promisify(execFile);
/** Runs a script in the examples' folder. */
const node = (args: string[], env: Record<string, string> = {}) =>
  run(process.execPath, args, { cwd: folder, encoding: 'utf8', env: { ...process.env, ...env } });
const command = `${root}/apps/reference/dist/cli.js`;

/** The folder that examples run in. */
let folder: string;
/** Without a card the driver is emulated. */
let cudaEnvironment: Record<string, string> = {};

beforeAll(async () => {
  if (!existsSync(command)) throw new Error('The examples need what `npm run build` makes.');
  folder = await exampleFolder((args, cwd) => run(process.execPath, [command, ...args], { cwd }));
});

beforeAll(async () => {
  if (hasCompiler) cudaEnvironment = await emulatorEnvironment();
}, 600_000);

afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.for(workspacePackages)(
  '$manifest.name: the first code block of its README runs as it is, on what is built',
  async (workspacePackage, { skip }) => {
    const isCuda = workspacePackage.manifest.name === '@d2dmoe/backend-cuda';
    skip(isCuda && !hasCompiler, 'needs g++ for the CUDA emulator');
    const isWebGPU = workspacePackage.manifest.name === '@d2dmoe/backend-webgpu';
    skip(isWebGPU && !(await webgpuInfo()).available, 'needs an adapter for WebGPU');
    const environment = isCuda ? cudaEnvironment : {};
    const path = `${workspacePackage.folder}/README.md`;
    const [example] = codeBlocks(documents.find((document) => document.path === path) as Document);
    expect(example?.language).toBe('js');
    const code = example?.code as string;
    expect(code).toContain(`'${workspacePackage.manifest.name}`);
    expect(code.trim().split('\n').length).toBeLessThanOrEqual(15);

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
