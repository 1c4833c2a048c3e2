import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { gzipSync } from 'node:zlib';
import { build } from 'esbuild';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { workspacePackages } from '../workspace/documents.js';
import { packAll } from '../workspace/pack.mjs';
import { root } from '../workspace/paths.mjs';

const run = promisify(execFile);

/** Runs a command that is installed here; resolves to what it wrote, and whether it was content. */
async function command(name: string, args: string[]): Promise<{ output: string; passed: boolean }> {
  const path = fileURLToPath(new URL(`node_modules/.bin/${name}`, import.meta.url));
  const options = { cwd: root, shell: process.platform === 'win32' };
  return await run(path, args, options).then(
    ({ stdout }) => ({ output: stdout, passed: true }),
    ({ stdout, stderr }: { stdout: string; stderr: string }) => ({
      output: stdout + stderr,
      passed: false,
    }),
  );
}

describe.each(workspacePackages)('$manifest.name', ({ folder, manifest }) => {
  let tarballs: string;
  let tarball: string;
  beforeAll(async () => {
    tarballs = mkdtempSync(join(tmpdir(), 'd2dmoe-gates-'));
    const [packed] = await packAll(tarballs, [join(root, folder)]);
    tarball = packed?.filename as string;
  });
  afterAll(() => rmSync(tarballs, { recursive: true, force: true }));

  test('passes publint', async () => {
    const { messages, pkg } = await publint({
      strict: true,
      pack: { tarball: new Uint8Array(readFileSync(tarball)).buffer },
    });
    expect(messages.map((message) => formatMessage(message, pkg))).toEqual([]);
  });

  test('has types that resolve, as ES modules', async () => {
    const args = ['--profile', 'esm-only', '--no-color', '--format', 'ascii', tarball];
    const { output, passed } = await command('attw', args);
    expect(passed ? '' : output).toBe('');
  });

  test('brings its changelog, and the sources that its maps name', () => {
    const { files } = manifest as { files?: string[] };
    expect(files).toEqual(expect.arrayContaining(['dist', 'src', 'CHANGELOG.md']));
    const own = join(root, folder);
    const maps = readdirSync(join(own, 'dist'), { recursive: true, encoding: 'utf8' });
    const without = maps
      .filter((name) => name.endsWith('.map'))
      .filter((name) => {
        const path = join(own, 'dist', name);
        const map = JSON.parse(readFileSync(path, 'utf8')) as {
          sources: string[];
          sourcesContent?: string[];
        };
        const inSrc = (source: string) => join(dirname(path), source).startsWith(join(own, 'src'));
        return map.sourcesContent === undefined && !map.sources.every(inSrc);
      });
    expect(without).toEqual([]);
  });

  test('runs nothing when it is installed', () => {
    const { scripts = {} } = manifest as { scripts?: Record<string, string> };
    const atInstall = ['preinstall', 'install', 'postinstall', 'prepare'];
    expect(Object.keys(scripts).filter((name) => atInstall.includes(name))).toEqual([]);
  });
});

test('no file, dependency or export is unused, none is undeclared, and no imports are circular', async () => {
  const issues = 'files,dependencies,unlisted,unresolved,exports,duplicates,cycles';
  const config = 'tools/gates/knip.json';
  const { output, passed } = await command('knip', [
    '--no-progress',
    '--config',
    config,
    '--include',
    issues,
  ]);
  expect(passed ? '' : output).toBe('');
});

/** What is not ours, and counted by nobody. */
const external = ['@tensorflow/*', 'gpu.js', '@huggingface/tokenizers'];

/** Bundles what an entry gives for a page, as small as it gets. */
async function bundled(
  contents: string,
  entry: string,
): Promise<{ code: string; inputs: string[] }> {
  const owner = workspacePackages.find(({ manifest }) =>
    `${entry}/`.startsWith(`${manifest.name}/`),
  );
  const { outputFiles, metafile } = await build({
    // In its own folder a package is found by its name.
    stdin: { contents, resolveDir: join(root, owner?.folder as string) },
    bundle: true,
    minify: true,
    write: false,
    metafile: true,
    format: 'esm',
    platform: 'browser',
    external,
    logLevel: 'error',
  });
  const [output] = Object.values(metafile.outputs);
  const inputs = Object.entries(output?.inputs ?? {})
    .filter(([, { bytesInOutput }]) => bytesInOutput > 0)
    .map(([path]) => path);
  return { code: outputFiles[0]?.text as string, inputs };
}

/** The most kilobytes of each entry for pages, gzipped, with everything of ours that it needs. */
const budgets: [entries: string[], kilobytes: number][] = [
  [['@d2dmoe/core'], 1],
  [['@d2dmoe/safetensors'], 8],
  [['@d2dmoe/sparsity'], 3],
  [['@d2dmoe/clustering'], 4],
  [['@d2dmoe/routing'], 6],
  [['@d2dmoe/attention'], 8],
  [['@d2dmoe/kernels'], 11],
  [['@d2dmoe/kernels/wasm'], 7],
  [['@d2dmoe/kernels/gpujs'], 5],
  [['@d2dmoe/models'], 20],
  [['@d2dmoe/kernels', '@d2dmoe/backend-webgpu'], 28],
  [['@d2dmoe/evaluation'], 24],
  [['@d2dmoe/evaluation/report'], 260], // draws with Observable Plot
];

test('every entry that a page can load has a budget', () => {
  const entries = workspacePackages.flatMap(({ manifest: { name, exports = {} } }) =>
    Object.keys(exports).map((path) => `${name}${path.slice(1)}`),
  );
  const forNode = /^d2dmoe$|backend-cuda$|[/-]node$/;
  const budgeted = budgets.flatMap(([names]) => names);
  expect(entries.filter((entry) => !forNode.test(entry) && !budgeted.includes(entry))).toEqual([]);
});

test.each(budgets)('%j takes at most %d KB of a page', async (entries, kilobytes) => {
  const exported = entries.map((entry, i) => `export * as part${i} from '${entry}';`);
  const { code } = await bundled(exported.join('\n'), entries.at(-1) as string);
  expect(gzipSync(code, { level: 9 }).length).toBeLessThan(1024 * kilobytes);
  expect(code.length).toBeGreaterThan(100);
  // Nothing of Node's.
  expect(code).not.toMatch(/["']node:/);
});

/** What one symbol brings with it: its own file, and files that it needs. */
const shaken: [symbol: string, entry: string, files: RegExp][] = [
  ['squareHoyer', '@d2dmoe/sparsity', /(square-hoyer|regularizer|sign|errors)\.js$/],
  ['selectExperts', '@d2dmoe/routing', /(select-experts|selection-rule|dispatch|errors)\.js$/],
  ['randomSplit', '@d2dmoe/clustering', /(random-split|split|validation|errors)\.js$/],
  ['checkSelectionRule', '@d2dmoe/kernels', /(selection-rule|errors)\.js$/],
];

test.each(shaken)('%s of %s brings nothing that it does not need', async (symbol, entry, files) => {
  const { inputs } = await bundled(`export { ${symbol} } from '${entry}';`, entry);
  const ours = inputs.filter((path) => path.includes('packages/'));
  expect(ours.length).toBeGreaterThan(0);
  expect(ours.filter((path) => !files.test(path))).toEqual([]);
});

/** Licences that ask for no more than their notice, and one that binds only who changes the library itself. */
const allowed = new Set([
  '0BSD',
  'Apache-2.0',
  'BSD-2-Clause',
  'BSD-3-Clause',
  'BlueOak-1.0.0',
  'CC0-1.0',
  'ISC',
  'MIT',
  'Python-2.0',
  'Unlicense',
]);
/** sharp loads libvips as a shared library, which whoever uses it may replace. */
const sharedLibrary = /^(@img\/sharp|sharp)/;

test('what the packages depend on has a licence that lets them be used', async () => {
  const { stdout } = await run(
    'pnpm',
    ['licenses', 'list', '--prod', '--json', '--filter', './packages/*', '--filter', './apps/*'],
    { cwd: root, maxBuffer: 2 ** 26, shell: process.platform === 'win32' },
  );
  const byLicence = JSON.parse(stdout.slice(stdout.indexOf('{'))) as Record<
    string,
    { name: string }[]
  >;
  const names = Object.entries(byLicence).flatMap(([licence, packages]) =>
    licence
      .replaceAll(/[()]/g, '')
      .split(' OR ')
      .some((choice) => choice.split(' AND ').every((part) => allowed.has(part)))
      ? []
      : packages.map(({ name }) => `${name}: ${licence}`),
  );
  expect(names.filter((name) => !sharedLibrary.test(name))).toEqual([]);
  expect(Object.keys(byLicence)).toContain('MIT');
});
