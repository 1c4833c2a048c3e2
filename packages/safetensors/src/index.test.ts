import { readFile } from 'node:fs/promises';
import { expect, test } from 'vitest';

test('nothing that the main entry imports needs Node', async () => {
  const seen = new Set<string>();
  const outside = new Set<string>();
  async function visit(file: string): Promise<void> {
    if (seen.has(file)) {
      return;
    }
    seen.add(file);
    const text = await readFile(new URL(file, import.meta.url), 'utf8');
    for (const [, specifier = ''] of text.matchAll(/from '([^']+)'/g)) {
      if (specifier.startsWith('./')) {
        await visit(specifier.replace(/\.js$/, '.ts'));
      } else {
        outside.add(specifier);
      }
    }
  }
  await visit('./index.ts');
  expect(seen.size).toBeGreaterThan(5);
  expect([...outside]).toEqual(['@d2dmoe/core']);
});
