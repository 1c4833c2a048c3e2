import { existsSync } from 'node:fs';
import type { DeviceUnderTest } from './devices.js';
import { chromiumPath, openSuitePage, type SuitePage } from './page.js';
import type { PageSuite } from './suite/page.js';

/** In the page, the suite is a global. */
type Global = { deviceSuite: PageSuite };

let opened: Promise<SuitePage> | undefined;

/** Devices of a page in Chromium; one page for all of them. */
export const pageDevices: DeviceUnderTest[] = [
  page('page wasm', 'wasm'),
  page('page webgl gpu.js', 'gpujs'),
  page('page webgpu', 'webgpu'),
];

/** Closes the page, if it was opened. */
export async function closePage(): Promise<void> {
  await (await opened)?.close();
}

function page(name: string, device: string): DeviceUnderTest {
  const evaluate = async <Argument, Result>(
    run: (argument: Argument) => Promise<Result>,
    argument: Argument,
  ): Promise<Result> => {
    if (!existsSync(chromiumPath)) throw new Error(`there is no ${chromiumPath}`);
    opened ??= openSuitePage();
    const { page } = await opened;
    // playwright's own type of a function's argument is narrower than what it takes.
    return await page.evaluate(run as never, argument as never);
  };
  return {
    name,
    start: () =>
      evaluate((name) => (globalThis as unknown as Global).deviceSuite.use(name), device),
    checkOp: (...options) =>
      evaluate((all) => (globalThis as unknown as Global).deviceSuite.checkOp(...all), options),
    leftAfter: (passes) =>
      evaluate((count) => (globalThis as unknown as Global).deviceSuite.leftAfter(count), passes),
    logits: (model) =>
      evaluate((name) => (globalThis as unknown as Global).deviceSuite.logits(name), model),
  };
}
