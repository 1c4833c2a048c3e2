import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { root } from './paths.mjs';

/** A Markdown file of the repository. */
export interface Document {
  /** From the root, `packages/core/README.md`. */
  path: string;
  text: string;
}

/** A workspace package: its folder from the root, and its package.json. */
export interface WorkspacePackage {
  folder: string;
  manifest: {
    name: string;
    description?: string;
    keywords?: string[];
    license?: string;
    publishConfig?: { access?: string };
    exports?: Record<string, unknown>;
    dependencies?: Record<string, string>;
    peerDependencies?: Record<string, string>;
    devDependencies?: Record<string, string>;
  };
}

const read = (path: string) => readFileSync(`${root}/${path}`, 'utf8');

/** All packages and apps. */
export const workspacePackages: WorkspacePackage[] = ['packages', 'apps'].flatMap((parent) =>
  readdirSync(`${root}/${parent}`)
    .map((name) => `${parent}/${name}`)
    .filter((folder) => existsSync(`${root}/${folder}/package.json`))
    .map((folder) => ({
      folder,
      manifest: JSON.parse(read(`${folder}/package.json`)) as WorkspacePackage['manifest'],
    })),
);

/** The Markdown files of a folder and of those in it. */
const markdownBelow = (folder: string) =>
  readdirSync(`${root}/${folder}`, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => `${folder}/${name.replaceAll('\\', '/')}`);

/** The root's documents, those of docs and of the kernels, and every README; not the API reports, which nobody writes. */
export const documents: Document[] = [
  ...readdirSync(root).filter((name) => name.endsWith('.md')),
  ...workspacePackages.map(({ folder }) => `${folder}/README.md`),
  ...['docs', 'kernels'].flatMap(markdownBelow).filter((path) => !path.startsWith('docs/api/')),
  ...readdirSync(`${root}/tools`).map((name) => `tools/${name}/README.md`),
]
  .filter((path) => existsSync(`${root}/${path}`))
  .map((path) => ({ path, text: read(path) }));

/** The fenced code blocks of a document, in order. */
export function codeBlocks({ text }: Document): { language: string; code: string }[] {
  const blocks = text.matchAll(/^```(\w*)\n(.*?)^```$/gms);
  return Array.from(blocks, ([, language = '', code = '']) => ({ language, code }));
}
