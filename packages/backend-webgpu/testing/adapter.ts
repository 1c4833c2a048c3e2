import { describe } from 'vitest';
import { useWebGPU, webgpuInfo } from '../src/node.js';

const info = await webgpuInfo();

/** A suite that needs an adapter; skipped, with the reason in its name, where there is none. */
export function onAdapter(name: string, suite: () => void): void {
  const where = info.available ? info.description || info.vendor : `no adapter: ${info.code}`;
  describe.skipIf(!info.available)(`${name} (${where})`, () => {
    suite();
  });
}

/** Starts the backend. */
export const start = () => useWebGPU();
