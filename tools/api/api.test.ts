import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { packageEntries, root } from './entries.mjs';

const node = (script: string, ...args: string[]) =>
  spawnSync(process.execPath, [join(root, script), ...args], { encoding: 'utf8' });

test('the reports in docs/api are those of the packages as they are built', () => {
  const { status, stderr } = node('tools/api/report.mjs', '--check');
  expect(stderr).toBe('');
  expect(status).toBe(0);
});

test.each(readdirSync(join(root, 'docs/api')))(
  '%s has no symbol and no member without a doc comment',
  (name) => {
    const report = readFileSync(join(root, 'docs/api', name), 'utf8');
    expect(report).not.toContain('(undocumented)');
  },
);

test('the site has a page for each entry, by the name that users import, and the guides', () => {
  const site = mkdtempSync(join(tmpdir(), 'd2dmoe-site-'));
  try {
    expect(node('tools/api/site.mjs', site).status).toBe(0);
    const modules = readdirSync(join(site, 'modules'));
    expect(modules).toHaveLength(packageEntries().length);
    expect(modules).toEqual(
      expect.arrayContaining(['_d2dmoe_kernels_node.html', '_d2dmoe_clustering.html']),
    );
    // Each package's begins with its README.
    const page = readFileSync(join(site, 'modules/_d2dmoe_clustering.html'), 'utf8');
    expect(page).toMatch(/<h2[^>]*>.*Limits/);
    expect(readFileSync(join(site, 'index.html'), 'utf8')).toContain('media/demo-curve.svg');
    expect(readdirSync(join(site, 'documents'))).toEqual(
      expect.arrayContaining(['CONTRIBUTING.html', 'ARCHITECTURE.html', 'The_command.html']),
    );
  } finally {
    rmSync(site, { recursive: true });
  }
});
