import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { workspacePackages } from './documents.js';
import { root } from './paths.mjs';

/** The codes that an argument or a file has in quotes. */
const quoted = (text: string) =>
  Array.from(text.matchAll(/'([A-Z][A-Z0-9_]+)'/g), ([, c = '']) => c);

/** The codes of the errors that a folder's sources make, from the constructor's first argument. */
function thrownCodes(folder: string): string[] {
  const files = readdirSync(`${root}/${folder}`, { recursive: true, encoding: 'utf8' });
  return files
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.test.ts'))
    .flatMap((name) => {
      const source = readFileSync(`${root}/${folder}/${name}`, 'utf8');
      return Array.from(source.matchAll(/new D2DMoEError\(([^,]+),/g), ([, code = '']) => {
        const codes = quoted(code);
        // A variable's values are somewhere in the same file.
        return codes.length > 0 ? codes : quoted(source);
      }).flat();
    });
}

test.each(workspacePackages)(
  "$manifest.name's README names the codes of its errors",
  ({ folder }) => {
    const readme = readFileSync(`${root}/${folder}/README.md`, 'utf8');
    const codes = new Set(thrownCodes(`${folder}/src`));
    expect([...codes].filter((code) => !readme.includes(`\`${code}\``))).toEqual([]);
  },
);

test('codes are found where they are thrown', () => {
  const codes = workspacePackages.flatMap(({ folder }) => thrownCodes(`${folder}/src`));
  expect(new Set(codes).size).toBeGreaterThan(100);
  expect(codes).toEqual(
    expect.arrayContaining(['USAGE', 'HUB_OFFLINE', 'CHECKPOINT_NOT_FOUND', 'CUDA_DEVICE_LOST']),
  );
});
