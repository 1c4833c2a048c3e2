import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { workspacePackages } from './documents.js';
import { root } from './paths.mjs';

/**
 * What each package may import of the others. Each names only packages above it, so that no circle is possible; a
 * package that is not here fails the test below.
 */
const allowed: Record<string, string[]> = {
  '@d2dmoe/core': [],
  '@d2dmoe/safetensors': ['@d2dmoe/core'],
  '@d2dmoe/kernels': ['@d2dmoe/core'],
  '@d2dmoe/backend-cuda': ['@d2dmoe/core'],
  '@d2dmoe/backend-webgpu': ['@d2dmoe/core'],
  '@d2dmoe/sparsity': ['@d2dmoe/core'],
  '@d2dmoe/clustering': ['@d2dmoe/core'],
  '@d2dmoe/routing': ['@d2dmoe/core', '@d2dmoe/kernels'],
  '@d2dmoe/attention': ['@d2dmoe/core', '@d2dmoe/kernels'],
  '@d2dmoe/models': ['@d2dmoe/core', '@d2dmoe/safetensors', '@d2dmoe/kernels'],
  // Its baselines train routers of their own, with routing's trainer and MoEfication's loss.
  '@d2dmoe/evaluation': ['@d2dmoe/core', '@d2dmoe/kernels', '@d2dmoe/routing', '@d2dmoe/models'],
  d2dmoe: [
    '@d2dmoe/backend-cuda',
    '@d2dmoe/backend-webgpu',
    '@d2dmoe/core',
    '@d2dmoe/safetensors',
    '@d2dmoe/kernels',
    '@d2dmoe/sparsity',
    '@d2dmoe/clustering',
    '@d2dmoe/routing',
    '@d2dmoe/attention',
    '@d2dmoe/models',
    '@d2dmoe/evaluation',
  ],
};

/** Comes with the workspace, for tests only. */
const testTools = ['vitest', 'fast-check'];

/** The packages that files import, Node's own left out. */
function imported(files: string[]): string[] {
  const names = files.flatMap((file) => {
    const text = readFileSync(file, 'utf8');
    // Statements that end in `from '…'`, imports for their effect, import() and import types.
    const specifiers = text.matchAll(
      /^(?:(?:import|export)\b[^;'"]*\bfrom |\} from |import )'([^'.][^']*)'|\bimport\('([^'.][^']*)'\)/gm,
    );
    return Array.from(specifiers, (match) => match[1] ?? (match[2] as string));
  });
  const packages = names
    .filter((name) => !name.startsWith('node:'))
    .map((name) => /^(@[^/]+\/)?[^/]+/.exec(name)?.[0] as string);
  return [...new Set(packages)].toSorted();
}

/** The TypeScript files below a folder, if it is there. */
function typeScript(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => name.endsWith('.ts')).map((name) => `${folder}/${name}`);
}

const isOurs = (name: string) => name in allowed || name.startsWith('@d2dmoe/');

test('every package has its place in the order of imports, above those that import it', () => {
  const order = Object.keys(allowed);
  expect(workspacePackages.map(({ manifest }) => manifest.name).toSorted()).toEqual(
    order.toSorted(),
  );
  for (const [index, name] of order.entries()) {
    expect(order.slice(0, index)).toEqual(expect.arrayContaining(allowed[name] as string[]));
  }
});

describe.each(workspacePackages)('$manifest.name', ({ folder, manifest }) => {
  const { name, dependencies = {}, peerDependencies = {}, devDependencies = {} } = manifest;
  const all = ['src', 'testing'].flatMap((part) => typeScript(`${root}/${folder}/${part}`));
  const isTest = (file: string) => file.endsWith('.test.ts') || file.includes('/testing/');
  const sources = imported(all.filter((file) => !isTest(file)));
  const tests = imported(all.filter(isTest));

  test('imports and depends on the packages below it only', () => {
    const used = sources.filter(isOurs);
    expect(allowed[name]).toEqual(expect.arrayContaining(used));
    expect(Object.keys(dependencies).filter(isOurs).toSorted()).toEqual(used);
    const forTests = Object.keys(devDependencies).filter(isOurs);
    const order = Object.keys(allowed);
    expect(order.slice(0, order.indexOf(name))).toEqual(expect.arrayContaining(forTests));
  });

  test('declares what it imports', () => {
    const declared = [...Object.keys(dependencies), ...Object.keys(peerDependencies)];
    expect(declared).toEqual(expect.arrayContaining(sources.filter((used) => used !== name)));
    const forTests = [...declared, ...Object.keys(devDependencies), ...testTools, name];
    expect(forTests).toEqual(expect.arrayContaining(tests));
    expect(all.length).toBeGreaterThan(0);
  });

  test('has TypeScript build what it depends on first', () => {
    const { references } = JSON.parse(readFileSync(`${root}/${folder}/tsconfig.json`, 'utf8')) as {
      references: { path: string }[];
    };
    const built = references.map(({ path }) => `@d2dmoe/${path.split('/').at(-1)}`);
    expect(built.toSorted()).toEqual(Object.keys(dependencies).filter(isOurs).toSorted());
  });
});
