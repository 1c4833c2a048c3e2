import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { softwareVulkan } from './tools/software-vulkan.mjs';

const packages = fileURLToPath(new URL('./packages', import.meta.url));

// WebGPU in Node finds its driver when a test's process starts. A driver that is named already is taken.
if (process.env['VK_ICD_FILENAMES'] === undefined) {
  Object.assign(process.env, softwareVulkan()?.environment);
}

export default defineConfig({
  resolve: {
    // Tests see the sources of every workspace package, so that nothing has to be rebuilt between runs.
    alias: [
      { find: /^@d2dmoe\/([a-z0-9-]+)$/, replacement: `${packages}/$1/src/index.ts` },
      { find: /^@d2dmoe\/([a-z0-9-]+)\/([a-z0-9-]+)$/, replacement: `${packages}/$1/src/$2.ts` },
    ],
  },
  test: {
    include: ['packages/*/src/**/*.test.ts', 'apps/*/src/**/*.test.ts', 'tools/**/*.test.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
