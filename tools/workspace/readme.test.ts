import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

test('the commands that README shows are scripts of the workspace', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const blocks = read('README.md').matchAll(/^```[a-z]*\n(.*?)^```/gms);
  const code = Array.from(blocks, (match) => match[1]).join('\n');
  const commands = code.matchAll(/\bnpm (?:run ([\w:-]+)|(test)\b)/g);
  const shown = Array.from(commands, (match) => match[1] ?? match[2]);

  expect(shown).toEqual(expect.arrayContaining(['demo', 'test']));
  expect(Object.keys(scripts)).toEqual(expect.arrayContaining(shown));
});
