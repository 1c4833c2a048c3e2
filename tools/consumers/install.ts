import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { packAll } from '../workspace/pack.mjs';

const run = promisify(execFile);

/** What the consumers import beside the packages: peers, which a user installs by name. */
const peers = {
  '@tensorflow/tfjs-core': '4.22.0',
  '@tensorflow/tfjs-layers': '4.22.0',
  '@tensorflow/tfjs-backend-cpu': '4.22.0',
  '@tensorflow/tfjs-backend-wasm': '4.22.0',
  '@tensorflow/tfjs-backend-webgl': '4.22.0',
  '@tensorflow/tfjs-backend-webgpu': '4.22.0',
  'gpu.js': '2.24.1',
  '@types/node': '20',
  webgpu: '0.6.2',
};

/**
 * Makes an empty folder, puts the projects into it and installs the packed packages there with npm, as a user would:
 * nothing of the workspace is above it.
 *
 * @returns the folder
 */
export async function installConsumers(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'd2dmoe-consumers-'));
  cpSync(fileURLToPath(new URL('projects', import.meta.url)), folder, { recursive: true });
  const packed = await packAll(folder);
  const dependencies = {
    ...peers,
    ...Object.fromEntries(packed.map(({ name, filename }) => [name, `file:${filename}`])),
  };
  const manifest = { name: 'consumers', private: true, type: 'module', dependencies };
  writeFileSync(join(folder, 'package.json'), JSON.stringify(manifest));
  // gpu.js asks for a WebGL of its own, which would be compiled here; none of ours has an install script.
  await npmInstall(folder, []);
  return folder;
}

/**
 * Makes an empty folder and installs the packages from their tarballs there, with nothing beside them.
 *
 * @param tarballs the folder that {@link installConsumers} made
 * @returns the folder
 */
export async function installAlone(tarballs: string): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'd2dmoe-alone-'));
  const names = readdirSync(tarballs).filter((name) => name.endsWith('.tgz'));
  await npmInstall(
    folder,
    names.map((name) => join(tarballs, name)),
  );
  return folder;
}

/**
 * Installs another Node from npm, where its binaries are packages too.
 *
 * @param major such as `22`
 * @returns the path of the binary
 */
export async function installNode(folder: string, major: string): Promise<string> {
  const system = process.platform === 'win32' ? 'win' : process.platform;
  await npmInstall(folder, [`node${major}@npm:node-${system}-${process.arch}@${major}`]);
  return join(folder, `node_modules/node${major}/bin/node`);
}

async function npmInstall(folder: string, packages: string[]): Promise<void> {
  const quiet = ['--no-audit', '--no-fund', '--prefer-offline', '--loglevel=error'];
  await run('npm', ['install', '--ignore-scripts', ...quiet, ...packages], {
    cwd: folder,
    shell: process.platform === 'win32',
  });
}
