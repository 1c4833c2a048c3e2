// The API reference as a static site, with the guides beside it: node tools/api/site.mjs [FOLDER], by default site/.
import { join, resolve } from 'node:path';
import { Application } from 'typedoc';
import { packageEntries, root } from './entries.mjs';

const out = resolve(process.argv[2] ?? join(root, 'site'));
const app = await Application.bootstrap({
  name: 'd2dmoe',
  readme: join(root, 'README.md'),
  projectDocuments: ['ARCHITECTURE.md', 'FEATURES.md', 'CONTRIBUTING.md'].map((name) =>
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
for (const module of project.children ?? []) {
  // `kernels/dist/node` is what users import as `@d2dmoe/kernels/node`.
  const [, name, entry] = /^([^/]+)\/dist(?:\/.*\/src)?(?:\/(.+))?$/.exec(module.name) ?? [];
  if (name !== undefined) module.name = ['@d2dmoe', name, ...(entry ? [entry] : [])].join('/');
}
await app.generateDocs(project, out);
console.log(`wrote ${out}/index.html`);
