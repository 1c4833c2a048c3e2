import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Browser, chromium, type Page } from 'playwright-core';
import { bundleSuite } from './bundle.js';

/** Where Debian has Chromium. */
export const chromiumPath = '/usr/bin/chromium';

const root = fileURLToPath(new URL('../..', import.meta.url));
const wasmBackend = dirname(
  createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'),
);

/** An open page with the suite in it. */
export interface SuitePage {
  page: Page;
  close(): Promise<void>;
}

/**
 * Bundles suite/page.ts, serves it with the wasm files and the recorded checkpoints, and opens it in Chromium. WebGPU
 * and WebGL are SwiftShader's there, unless the machine has better.
 */
export async function openSuitePage(): Promise<SuitePage> {
  const bundle = await bundleSuite('page.ts', { platform: 'browser' });
  const server = createServer((request, response) => {
    void (async () => {
      const path = new URL(request.url ?? '/', 'http://localhost').pathname;
      const body = await content(path, bundle);
      response.writeHead(body === undefined ? 404 : 200, { 'content-type': typeOf(path) });
      response.end(body);
    })();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  let browser: Browser | undefined;
  const close = async () => {
    await browser?.close();
    server.close();
  };
  try {
    browser = await chromium.launch({
      executablePath: chromiumPath,
      args: [
        '--headless',
        '--no-sandbox',
        '--enable-unsafe-webgpu',
        '--enable-unsafe-swiftshader',
        '--disable-background-networking',
      ],
    });
    const page = await browser.newPage();
    await page.goto(`http://localhost:${port}/`);
    await page.waitForFunction(() => 'deviceSuite' in globalThis);
    return { page, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function content(path: string, bundle: Uint8Array): Promise<string | Uint8Array | undefined> {
  if (path === '/') return '<!doctype html><script type="module" src="/page.js"></script>';
  if (path === '/page.js') return bundle;
  const [, folder = '', ...rest] = path.split('/');
  const roots: Record<string, string> = {
    wasm: rest[0]?.startsWith('tfjs') ? wasmBackend : join(root, 'packages/kernels/dist/wasm'),
    fixtures: join(root, 'tools/fixtures'),
  };
  const from = roots[folder];
  const file = from === undefined ? undefined : join(from, ...rest);
  return file !== undefined && existsSync(file) ? await readFile(file) : undefined;
}

function typeOf(path: string): string {
  if (path === '/') return 'text/html';
  if (path.endsWith('.js')) return 'text/javascript';
  return path.endsWith('.wasm') ? 'application/wasm' : 'application/octet-stream';
}
