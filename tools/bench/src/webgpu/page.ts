import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { type Browser, chromium } from 'playwright-core';
import type { BenchDevice } from './bench-device.js';
import type { PageBench } from './in-page.js';

/** Debian's, or the one that is asked for. */
export const chromiumPath = process.env['D2DMOE_CHROMIUM'] ?? '/usr/bin/chromium';
const peers = new URL('../../peers/node_modules/onnxruntime-web/dist/', import.meta.url);

/** In the page, the bench is a global. */
type Global = { webgpuBench: PageBench };

/**
 * Opens a page in Chromium with the bench in it, beside onnxruntime-web where that is installed.
 *
 * @throws Error where there is no Chromium, or no WebGPU in it
 */
export async function openBenchPage(): Promise<BenchDevice> {
  if (!existsSync(chromiumPath)) {
    throw new Error(
      `There is no ${chromiumPath}: install Chromium, or say where it is by D2DMOE_CHROMIUM.`,
    );
  }
  const script = await bundled();
  const hasPeer = existsSync(peers);
  const server = createServer((request, response) => {
    void (async () => {
      const path = new URL(request.url ?? '/', 'http://localhost').pathname;
      const body = await content(path, script);
      response.writeHead(body === undefined ? 404 : 200, { 'content-type': typeOf(path) });
      response.end(body);
    })();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  let browser: Browser | undefined;
  const close = async () => {
    await browser?.close();
    server.close();
  };
  try {
    browser = await chromium.launch({
      executablePath: chromiumPath,
      // Linux has WebGPU behind a flag, and Vulkan's adapters behind another.
      args: [
        '--headless=new',
        '--no-sandbox',
        '--enable-unsafe-webgpu',
        '--enable-unsafe-swiftshader',
        '--enable-features=Vulkan',
        '--disable-background-networking',
      ],
    });
    const page = await browser.newPage();
    await page.goto(`http://localhost:${(server.address() as AddressInfo).port}/`);
    await page.waitForFunction(() => 'webgpuBench' in globalThis);
    const description = await page.evaluate(() =>
      (globalThis as unknown as Global).webgpuBench.start(),
    );
    return {
      name: `${description}, WebGPU in Chromium ${browser.version()}`,
      peaks: (share) =>
        page.evaluate((all) => (globalThis as unknown as Global).webgpuBench.peaks(all), share),
      rows: (layerCase, peaks, turns, filter) =>
        page.evaluate((all) => (globalThis as unknown as Global).webgpuBench.rows(...all), [
          layerCase,
          peaks,
          turns,
          filter,
          hasPeer,
        ] as Parameters<PageBench['rows']>),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** in-page.ts with all that it imports: its source beside this file, or what it was built to. */
async function bundled(): Promise<Uint8Array> {
  const beside = (name: string) => fileURLToPath(new URL(name, import.meta.url));
  const { outputFiles } = await build({
    entryPoints: [existsSync(beside('in-page.js')) ? beside('in-page.js') : beside('in-page.ts')],
    bundle: true,
    write: false,
    format: 'esm',
    target: 'es2022',
    platform: 'browser',
    // tfjs promises to have no side effects, and its backends register themselves.
    ignoreAnnotations: true,
    logLevel: 'error',
  });
  return outputFiles[0]?.contents ?? new Uint8Array();
}

async function content(path: string, script: Uint8Array): Promise<string | Uint8Array | undefined> {
  if (path === '/') return '<!doctype html><script type="module" src="/bench.js"></script>';
  if (path === '/bench.js') return script;
  const file = join(fileURLToPath(peers), basename(path));
  return path.startsWith('/onnxruntime-web/') && existsSync(file)
    ? await readFile(file)
    : undefined;
}

function typeOf(path: string): string {
  if (path === '/') return 'text/html';
  return path.endsWith('.wasm') ? 'application/wasm' : 'text/javascript';
}
