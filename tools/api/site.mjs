// The API reference as a static site, with the guides beside it: node tools/api/site.mjs [FOLDER], by default site/.
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Application, MinimalSourceFile } from 'typedoc';
import { packageEntries, root } from './entries.mjs';

const out = resolve(process.argv[2] ?? join(root, 'site'));
const command = 'apps/reference/README.md';
const app = await Application.bootstrap({
  name: 'd2dmoe',
  readme: join(root, 'README.md'),
  projectDocuments: [command, 'ARCHITECTURE.md', 'FEATURES.md', 'CONTRIBUTING.md'].map((name) =>
    join(root, name),
  ),
  entryPoints: packageEntries().map(({ types }) => types),
  tsconfig: join(root, 'tools/api/tsconfig.json'),
  // Types of the tests and of dependencies are checked elsewhere, by the workspace's own TypeScript.
  skipErrorChecking: true,
  excludeExternals: true,
  excludeNotDocumented: false,
  disableSources: true,
  githubPages: false,
  includeVersion: false,
  hideGenerator: true,
  treatWarningsAsErrors: false,
  logLevel: 'Error',
});
const project = await app.convert();
if (project === undefined) throw new Error('The declarations could not be read: build first.');
const guide = project.documents?.find(({ name }) => name === 'apps/reference/README');
if (guide) guide.name = 'The command';
for (const module of project.children ?? []) {
  // `kernels/dist/node` is what users import as `@d2dmoe/kernels/node`.
  const [, name, entry] = /^([^/]+)\/dist(?:\/.*\/src)?(?:\/(.+))?$/.exec(module.name) ?? [];
  if (name === undefined) continue;
  module.name = ['@d2dmoe', name, ...(entry ? [entry] : [])].join('/');
  if (entry) continue;
  // A package's page begins with its README, and links to that lead there.
  const path = /** @type {import('typedoc').NormalizedPath} */ (
    join(root, 'packages', name, 'README.md').replaceAll('\\', '/')
  );
  const readme = new MinimalSourceFile(readFileSync(path, 'utf8'), path);
  module.readme = app.converter.parseRawComment(readme, project.files).content;
  project.files.registerReflectionPath(path, module);
}
await app.generateDocs(project, out);
console.log(`wrote ${out}/index.html`);
