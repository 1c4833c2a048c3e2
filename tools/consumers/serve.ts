import { existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { type Browser, chromium } from 'playwright-core';

/** Where Debian has Chromium. */
export const chromiumPath = '/usr/bin/chromium';

const types: Record<string, string> = {
  html: 'text/html',
  js: 'text/javascript',
  wasm: 'application/wasm',
};

/**
 * Serves folders, opens a page of them in Chromium, and waits for the global promise `result` that it makes.
 *
 * @param folders the first one that has a path serves it
 * @param files paths that are not in a folder
 * @throws what the page throws
 */
export async function resultOfPage<Result>(
  path: string,
  folders: string[],
  files: Record<string, string> = {},
): Promise<Result> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const body = files[pathname] ?? read(pathname, folders);
    const type = types[pathname.split('.').at(-1) ?? ''] ?? 'text/html';
    response.writeHead(body === undefined ? 404 : 200, { 'content-type': type });
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  let browser: Browser | undefined;
  try {
    browser = await chromium.launch({
      executablePath: chromiumPath,
      args: ['--headless', '--no-sandbox', '--enable-unsafe-webgpu', '--enable-unsafe-swiftshader'],
    });
    const page = await browser.newPage();
    const problems: string[] = [];
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('requestfailed', (request) => problems.push(`${request.url()} was not served`));
    await page.goto(`http://localhost:${(server.address() as AddressInfo).port}${path}`);
    const loaded = page.waitForFunction(() => 'result' in globalThis, undefined, {
      timeout: 60_000,
    });
    await loaded.catch(() => {
      throw new Error(`the page does not get going: ${problems.join('; ')}`);
    });
    return await page.evaluate(() => (globalThis as unknown as { result: Promise<Result> }).result);
  } finally {
    await browser?.close();
    server.close();
  }
}

function read(path: string, folders: string[]): Buffer | undefined {
  for (const folder of folders) {
    const file = join(folder, path.endsWith('/') ? `${path}index.html` : path);
    if (existsSync(file) && statSync(file).isFile()) return readFileSync(file);
  }
  return undefined;
}
