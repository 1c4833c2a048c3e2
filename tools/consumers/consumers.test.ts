import { execFile, spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { build as bundle } from 'esbuild';
import { build as buildPage } from 'vite';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { emulatorEnvironment, hasCompiler } from '../../packages/backend-cuda/testing/emulated.js';
import { codeBlocks, type Document, documents, workspacePackages } from '../workspace/documents.js';
import { exampleFolder } from '../workspace/example-folder.js';
import { installAlone, installConsumers, installNode } from './install.js';
import { chromiumPath, resultOfPage } from './serve.js';

const run = promisify(execFile);
const typescript = fileURLToPath(
  new URL('lib/tsc.js', import.meta.resolve('typescript/package.json')),
);

/** Where the packages are installed from their tarballs. */
let folder: string;
/** The command, as npx would find it. */
const command = () => join(folder, 'node_modules/d2dmoe/dist/cli.js');

beforeAll(async () => {
  folder = await installConsumers();
}, 300_000);
// Some hundred megabytes in thousands of files.
afterAll(() => {
  if (folder) rmSync(folder, { recursive: true, force: true });
}, 300_000);

const [thisNode = ''] = process.versions.node.split('.');
/** Majors of Node: this one, and those that a list with commas between asks for besides. */
const nodes = [thisNode, ...(process.env['D2DMOE_NODES']?.split(',') ?? [])];

describe('from the tarballs', () => {
  let examples: string;
  beforeAll(async () => {
    examples = await exampleFolder((args, cwd) =>
      run(process.execPath, [command(), ...args], { cwd }),
    );
  }, 120_000);
  afterAll(() => {
    if (examples) rmSync(examples, { recursive: true, force: true });
  });

  describe.each(nodes)('Node %s', (major) => {
    let binary: string;
    beforeAll(async () => {
      binary = major === thisNode ? process.execPath : await installNode(folder, major);
    }, 120_000);

    test.for(workspacePackages)(
      '$manifest.name: the first example of its README runs',
      { timeout: 120_000 },
      async ({ folder: source, manifest }, { skip }) => {
        const isCuda = manifest.name === '@d2dmoe/backend-cuda';
        skip(isCuda && !hasCompiler, 'needs g++ for the CUDA emulator');
        const emulated = isCuda ? await emulatorEnvironment() : {};
        const readme = documents.find(({ path }) => path === `${source}/README.md`);
        const [example] = codeBlocks(readme as Document);
        const script = join(folder, `${manifest.name.replace('/', '-')}.mjs`);
        writeFileSync(script, example?.code as string);
        const env = { ...process.env, ...emulated };
        const ran = await run(binary, [script], { cwd: examples, env }).catch(
          (error: Error) => error,
        );
        skip(ran instanceof Error && ran.message.includes('WEBGPU_NO_ADAPTER'), 'needs a GPU');
        if (ran instanceof Error) throw ran;
        expect(ran.stdout.trim()).not.toBe('');
      },
    );

    test('the command is there and looks at the machine', async () => {
      const { stdout } = await run(binary, [command(), 'doctor'], { cwd: folder });
      expect(stdout).toMatch(new RegExp(`^Node ${major}\\.`));
      expect(stdout).toMatch(/yes {2}wasm/);
    });
  });

  test.each(workspacePackages)(
    '$manifest.name: nothing but what is meant to goes out',
    ({ manifest }) => {
      const installed = join(folder, 'node_modules', manifest.name);
      const expected = /^(dist|src|README\.md|LICENSE|CHANGELOG\.md|package\.json|node_modules)$/;
      const top = readdirSync(installed);
      expect(top.filter((name) => !expected.test(name))).toEqual([]);
      expect(top).toEqual(expect.arrayContaining(['README.md', 'LICENSE']));
      const files = readdirSync(installed, { recursive: true, encoding: 'utf8' });
      const ours = files.filter((name) => !name.includes('node_modules'));
      expect(ours.filter((name) => /\.test\.|tsbuildinfo|example-/.test(name))).toEqual([]);
    },
  );
});

describe.skipIf(process.platform === 'win32')('with nothing but the tarballs', () => {
  let alone: string;
  beforeAll(async () => {
    alone = await installAlone(folder);
  }, 300_000);
  afterAll(() => {
    if (alone) rmSync(alone, { recursive: true, force: true });
  }, 300_000);

  test('d2dmoe demo trains, and stops at Ctrl-C where it can go on', {
    timeout: 120_000,
  }, async () => {
    // What npx runs; npx itself does not wait for it.
    const demo = spawn('node_modules/.bin/d2dmoe', ['demo', '--device', 'wasm'], { cwd: alone });
    let said = '';
    demo.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
      if (chunk.includes('step 100/')) demo.kill('SIGINT');
    });
    const code = await new Promise((resolve) => demo.on('close', resolve));
    expect({ code, said }).toMatchObject({ code: 130 });
    expect(readdirSync(join(alone, 'demo'))).toContain('images');
  });
});

describe.each(['nodenext', 'bundler'])('strict TypeScript, %s', (resolution) => {
  test('every entry has types that are right', { timeout: 120_000 }, async () => {
    const project = join(folder, `types/tsconfig.${resolution}.json`);
    const output = await run(process.execPath, [typescript, '-p', project], { cwd: folder }).then(
      ({ stdout }) => stdout,
      (error: { stdout: string }) => error.stdout,
    );
    // Declarations of tfjs do not stand checking; ours have to.
    const errors = output.split('\n').filter((line) => /^\S/.test(line));
    const theirs = /^[^(]*node_modules\/(?!@d2dmoe\/|d2dmoe\/)/;
    expect(errors.filter((line) => !theirs.test(line))).toEqual([]);
    expect(errors.length).toBeGreaterThan(0);
  });
});

describe.skipIf(!existsSync(chromiumPath))('pages in Chromium', () => {
  const onADevice = { shape: [5, 16], selected: expect.any(Number) as number };

  test('a page that Vite builds, with a worker', { timeout: 300_000 }, async () => {
    const root = join(folder, 'page');
    await buildPage({ root, logLevel: 'error', build: { outDir: 'dist', target: 'es2022' } });
    const scripts = readdirSync(join(root, 'dist/assets')).filter((name) => name.endsWith('.js'));
    const texts = scripts.map((name) => readFileSync(join(root, 'dist/assets', name), 'utf8'));
    // Nothing of Node's gets in, and gpu.js is a part that is loaded when it is asked for.
    expect(texts.filter((text) => /["']node:/.test(text))).toEqual([]);
    expect(texts.filter((text) => text.includes('createKernelMap')).length).toBe(1);
    const index = readFileSync(join(root, 'dist/index.html'), 'utf8');
    const loaded = scripts.filter((name) => index.includes(name));
    expect(loaded.length).toBeGreaterThan(0);
    for (const name of loaded) {
      expect(readFileSync(join(root, 'dist/assets', name), 'utf8')).not.toContain(
        'createKernelMap',
      );
    }

    const result = await resultOfPage<Record<string, unknown>>('/', [join(root, 'dist')]);
    expect(result).toEqual({
      devices: ['webgpu', 'wasm', 'webgl', 'cpu'].map((name) => ({
        name,
        available: true,
        description: expect.any(String) as string,
      })),
      ran: ['webgpu', 'wasm', 'webgl', 'cpu'].map((backend) => ({ backend, ...onADevice })),
      experts: 4,
      logits: [1, 3, 11],
      tensors: ['w'],
      hoyer: 4,
      inWorker: { backend: 'cpu', ...onADevice },
    });
  });

  test('a page of modules, without a bundler', { timeout: 300_000 }, async () => {
    // What is not ours is made a module as a CDN makes it; the packages are served as they are.
    const files: Record<string, string> = {};
    for (const name of ['tfjs-core', 'tfjs-backend-cpu', 'tfjs-backend-webgpu']) {
      const { outputFiles } = await bundle({
        entryPoints: [`@tensorflow/${name}`],
        absWorkingDir: folder,
        bundle: true,
        write: false,
        format: 'esm',
        platform: 'browser',
        external: name === 'tfjs-core' ? [] : ['@tensorflow/tfjs-core'],
        ignoreAnnotations: true,
        logLevel: 'error',
      });
      files[`/${name}.js`] = outputFiles[0]?.text as string;
    }
    expect(await resultOfPage('/plain/', [folder], files)).toEqual([
      { backend: 'cpu', ...onADevice },
      { backend: 'webgpu', ...onADevice },
    ]);
  });
});
