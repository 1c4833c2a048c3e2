import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build, type BuildOptions } from 'esbuild';

const packages = fileURLToPath(new URL('../../packages', import.meta.url));

/** Bundles a file of the suite with the packages' sources, so that nothing has to be built for it. */
export async function bundleSuite(file: string, options: BuildOptions): Promise<Uint8Array> {
  const { outputFiles } = await build({
    entryPoints: [fileURLToPath(new URL(`suite/${file}`, import.meta.url))],
    bundle: true,
    format: 'esm',
    target: 'es2022',
    alias: sources(),
    // tfjs promises to have no side effects, and its backends register themselves.
    ignoreAnnotations: true,
    logLevel: 'error',
    ...options,
    write: false,
  });
  return outputFiles[0]?.contents ?? new Uint8Array();
}

/** Every entry of every package, by its name. */
function sources(): Record<string, string> {
  const alias: Record<string, string> = {};
  for (const name of readdirSync(packages)) {
    const folder = join(packages, name, 'src');
    if (!existsSync(folder)) continue;
    for (const file of readdirSync(folder)) {
      const entry = /^(?!.*\.test\.)(.+)\.ts$/.exec(file)?.[1];
      if (entry === undefined) continue;
      alias[`@d2dmoe/${name}${entry === 'index' ? '' : `/${entry}`}`] = join(folder, file);
    }
  }
  // Of two that fit, esbuild takes the longer one.
  return alias;
}
