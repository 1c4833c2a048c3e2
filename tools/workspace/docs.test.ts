import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { commands } from '../../apps/reference/src/commands/index.js';
import { codeBlocks, type Document, documents, workspacePackages } from './documents.js';
import { root } from './paths.mjs';

const { scripts } = JSON.parse(readFileSync(`${root}/package.json`, 'utf8')) as {
  scripts: Record<string, string>;
};

/** What a document shows as code, line by line: its fenced blocks and its code spans. */
function codeLines(document: Document): string[] {
  const blocks = codeBlocks(document).flatMap(({ code }) => code.split('\n'));
  const prose = document.text.replaceAll(/^```.*?^```$/gms, '');
  const spans = Array.from(prose.matchAll(/`([^`\n]+)`/g), ([, code = '']) => code);
  return [...blocks, ...spans];
}

/** The code lines of all documents that match, with the document's path. */
function find(pattern: RegExp): { path: string; match: RegExpMatchArray }[] {
  return documents.flatMap((document) =>
    codeLines(document).flatMap((line) =>
      Array.from(line.matchAll(pattern), (match) => ({ path: document.path, match })),
    ),
  );
}

/** GitHub's anchor of a heading. */
const anchor = (heading: string) =>
  heading
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
    .replaceAll(' ', '-');

test('every package has a README', () => {
  const paths = documents.map(({ path }) => path);
  for (const { folder } of workspacePackages) expect(paths).toContain(`${folder}/README.md`);
});

test("README's table has every package", () => {
  const readme = documents.find(({ path }) => path === 'README.md') as Document;
  const rows = workspacePackages.map(
    ({ folder, manifest }) => `| [${manifest.name}](${folder}/README.md)`,
  );
  expect(rows.filter((row) => !readme.text.includes(row))).toEqual([]);
});

test("README's first code block is the two commands of a fresh clone", () => {
  const readme = documents.find(({ path }) => path === 'README.md') as Document;
  const [first] = codeBlocks(readme);
  const lines = first?.code.trim().split('\n');
  expect(lines?.map((line) => line.replace(/\s*#.*/, ''))).toEqual(['npm run demo', 'npm test']);
});

test('every relative link leads to a file, and its anchor to a heading', () => {
  let links = 0;
  const broken: string[] = [];
  for (const { path, text } of documents) {
    const prose = text.replaceAll(/^```.*?^```$/gms, '');
    for (const [, target = ''] of prose.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^(https?|mailto):/.test(target)) continue;
      links++;
      const [file = '', heading] = target.split('#');
      const full = file === '' ? join(root, path) : join(root, dirname(path), file);
      const headings = () =>
        Array.from(readFileSync(full, 'utf8').matchAll(/^#+ (.*)$/gm), ([, h = '']) => anchor(h));
      if (!existsSync(full) || (heading !== undefined && !headings().includes(heading))) {
        broken.push(`${path}: ${target}`);
      }
    }
  }
  expect(broken).toEqual([]);
  expect(links).toBeGreaterThan(40);
});

test('every npm script that the documents name exists', () => {
  const shown = find(/\bnpm (?:run ([\w:-]+)|(test)\b)/g);
  const names = shown.map(({ match }) => match[1] ?? match[2]);
  expect(names).toEqual(expect.arrayContaining(['demo', 'test', 'd2dmoe']));
  expect(Object.keys(scripts)).toEqual(expect.arrayContaining(names));
});

test('every tool that the documents run with npx is installed', () => {
  const shown = find(/\bnpx (?!d2dmoe\b)(\S+)/g);
  const missing = shown.filter(({ match }) => !existsSync(`${root}/node_modules/.bin/${match[1]}`));
  expect(missing.map(({ path, match }) => `${path}: ${match[0]}`)).toEqual([]);
  expect(shown.length).toBeGreaterThan(0);
});

test('every d2dmoe command that the documents show exists, with its options', () => {
  const shown = find(/(?:\bnpm run d2dmoe --|\bnpx d2dmoe|^d2dmoe) (\S+)(.*)$/g);
  const wrong = shown.filter(({ match: [, name = '', rest = ''] }) => {
    if (name === 'COMMAND' || name === '--help') return false;
    const command = commands.find(({ spec }) => spec.name === name);
    const known = ['help', ...(command?.spec.options ?? []).map(({ flag }) => flag)];
    const flags = Array.from(rest.matchAll(/--(?:no-)?([\w-]+)/g), ([, flag = '']) => flag);
    return command === undefined || !flags.every((flag) => known.includes(flag));
  });
  expect(wrong.map(({ path, match }) => `${path}: ${match[0]}`)).toEqual([]);
  expect(shown.length).toBeGreaterThan(2);
});

test("the app's README lists every command", () => {
  const readme = documents.find(({ path }) => path === 'apps/reference/README.md') as Document;
  const table = readme.text.split('\n').filter((line) => line.startsWith('| `'));
  const listed = table.flatMap((line) =>
    Array.from((line.split(' | ')[0] ?? '').matchAll(/`([a-z]\w*)/g), ([, name = '']) => name),
  );
  expect(listed.toSorted()).toEqual(commands.map(({ spec }) => spec.name).toSorted());
});

test.each(workspacePackages)('$manifest.name says what it is', ({ manifest }) => {
  expect(manifest.description).toMatch(/\w+/);
  expect(manifest.keywords?.length).toBeGreaterThan(2);
  expect(manifest.license).toBe('Apache-2.0');
  expect(manifest.publishConfig).toEqual({ access: 'public' });
});
