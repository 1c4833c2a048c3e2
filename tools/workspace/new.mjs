import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { requireSuccess, run } from './children.mjs';
import { root } from './paths.mjs';

const usage =
  'usage: npm run new -- package NAME | kernel NAME (a CUDA kernel); NAME in kebab-case';

/**
 * Makes the files of a new package or CUDA kernel that CONTRIBUTING.md describes: they build, pass every gate, and hold
 * an example to replace.
 *
 * @param {string[]} args
 */
export async function create([kind = '', name = '', ...rest]) {
  const isKind = kind === 'package' || kind === 'kernel';
  if (!isKind || rest.length > 0 || !/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(name)) {
    fail(usage);
    return;
  }
  const { files, edits, next } = (kind === 'package' ? newPackage : newKernel)(name);
  const taken = Object.keys(files).find((path) => existsSync(join(root, path)));
  if (taken !== undefined) {
    fail(`${taken} is there already: choose another name.`);
    return;
  }
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
    console.log(`wrote   ${path}`);
  }
  for (const { path, before, line } of edits) {
    const text = readFileSync(join(root, path), 'utf8');
    if (!text.includes(before)) throw new Error(`${path} has no longer the line "${before}".`);
    writeFileSync(join(root, path), text.replace(before, `${line}\n${before}`));
    console.log(`edited  ${path}`);
  }
  // Where lines break depends on the name's length.
  const written = [...Object.keys(files), ...edits.map(({ path }) => path)];
  requireSuccess(
    await run('biome', ['format', '--write', ...written], { quiet: true }),
    'the files could not be formatted.',
  );
  console.log(`\n${next}`);
}

/** @param {string} sentence */
function fail(sentence) {
  console.error(`error: ${sentence}`);
  process.exitCode = 2;
}

/** @param {string} name */
const camel = (name) => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());
/** @param {string} name */
const pascal = (name) => name[0]?.toUpperCase() + camel(name).slice(1);

/** @param {string} name */
function newPackage(name) {
  const folder = `packages/${name}`;
  const example = camel(name);
  /** @type {Record<string, string>} */
  const sibling = JSON.parse(readFileSync(join(root, 'packages/clustering/package.json'), 'utf8'));
  const manifest = {
    ...sibling,
    name: `@d2dmoe/${name}`,
    version: '0.0.0',
    description: `What ${name} is for, in one line`,
    keywords: [name],
  };
  const files = {
    [`${folder}/package.json`]: `${JSON.stringify(manifest, undefined, 2)}\n`,
    [`${folder}/tsconfig.json`]: readFileSync(
      join(root, 'packages/clustering/tsconfig.json'),
      'utf8',
    ),
    [`${folder}/README.md`]: `# @d2dmoe/${name}

What ${name} is for, in one sentence.

\`\`\`js
import { ${example} } from '@d2dmoe/${name}';

console.log(${example}(Float64Array.of(1, 2, 6)));
\`\`\`

## API

|                         |                             |
| ----------------------- | --------------------------- |
| \`${example}(values)\` | \`number\`; the mean |

Throws \`VALUES_EMPTY\` where there is nothing to take the mean of.

## Limits

Values are summed in float64, in their order.
`,
    [`${folder}/src/index.ts`]: `export { ${example} } from './${name}.js';\n`,
    [`${folder}/src/${name}.ts`]: `import { D2DMoEError } from '@d2dmoe/core';

/**
 * The mean: an example to replace.
 *
 * @param values At least one.
 * @throws D2DMoEError \`VALUES_EMPTY\` if there are none.
 */
export function ${example}(values: Float64Array): number {
  if (values.length === 0) {
    throw new D2DMoEError('VALUES_EMPTY', 'There are no values to take the mean of.');
  }
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
`,
    [`${folder}/src/${name}.test.ts`]: `import fc from 'fast-check';
import { expect, test } from 'vitest';
import { ${example} } from './${name}.js';

test('lies between the least and the greatest value', () => {
  const values = fc.float64Array({ minLength: 1, min: -1e6, max: 1e6, noNaN: true });
  fc.assert(
    fc.property(values, (drawn) => {
      const mean = ${example}(drawn);
      expect(mean).toBeGreaterThanOrEqual(Math.min(...drawn) - 1e-6);
      expect(mean).toBeLessThanOrEqual(Math.max(...drawn) + 1e-6);
    }),
  );
  expect(${example}(Float64Array.of(1, 2, 6))).toBe(3);
});

test('nothing has no mean', () => {
  expect(() => ${example}(new Float64Array())).toThrow(/no values/);
});
`,
    [`.changeset/${name}.md`]: `---
'@d2dmoe/${name}': minor
---

The package ${name}: what it is for, in one sentence.
`,
  };
  const edits = [
    {
      path: 'tools/workspace/imports.test.ts',
      before: "  '@d2dmoe/models': [",
      line: `  '@d2dmoe/${name}': ['@d2dmoe/core'],`,
    },
  ];
  const next = `Now: npx pnpm install, replace the example, add a row to README.md's table of packages, and npm test.`;
  return { files, edits, next };
}

/** @param {string} name */
function newKernel(name) {
  const entry = name.replaceAll('-', '_');
  const variable = camel(name);
  const kernels = 'packages/backend-cuda/src/kernels';
  const files = {
    [`kernels/cuda/${name}.cu`]: `// What ${name} computes: here x², an example to replace.
#include "common.cuh"

KERNEL __launch_bounds__(256) ${entry}_f32(const float *__restrict__ x, float *__restrict__ out, long long n) {
  for (GRID_LOOP(i, n)) out[i] = x[i] * x[i];
}
`,
    [`${kernels}/${name}.ts`]: `import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import { kernel } from '../launch.js';
import { cudaKernel } from './config.js';

const ${variable}Kernel = kernel('${name}', '${entry}_f32', 'p p l');

/** x², an example to replace: \`tf.engine().runKernel('${pascal(name)}', { x })\`. */
export const ${variable}Kernels: KernelConfig[] = [
  cudaKernel<{ x: TensorInfo }>('${pascal(name)}', ({ inputs: { x }, backend }) => {
    const size = util.sizeFromShape(x.shape);
    const out = backend.output(x.shape, 'float32');
    backend.launch(${variable}Kernel, backend.blocks(size), 256, [
      backend.pointer(x),
      out.pointer,
      size,
    ]);
    return out;
  }),
];
`,
    [`${kernels}/${name}.test.ts`]: `import * as tf from '@tensorflow/tfjs-core';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { emulated } from '../../testing/emulated.js';
import { relativeError } from '../../testing/relative-error.js';

emulated('${name}', () => {
  test('is what float64 gives', () => {
    const values = fc.float32Array({ minLength: 1, maxLength: 700, noNaN: true, min: 0.5, max: 99 });
    fc.assert(
      fc.property(values, (drawn) => {
        const actual = tf.tidy(() => {
          const out = tf.engine().runKernel('${pascal(name)}', { x: tf.tensor1d(drawn) });
          return (out as tf.Tensor).dataSync();
        });
        const expected = Float64Array.from(drawn, (value) => value * value);
        expect(relativeError(actual, expected)).toBeLessThan(1e-6);
      }),
    );
  });
});
`,
  };
  const register = 'packages/backend-cuda/src/register.ts';
  const edits = [
    {
      path: register,
      before: "import { arrayKernels } from './kernels/arrays.js';",
      line: `import { ${variable}Kernels } from './kernels/${name}.js';`,
    },
    { path: register, before: '  ...arrayKernels,', line: `  ...${variable}Kernels,` },
  ];
  const next = `Now: replace the example, count bytes and operations in a note beside the source, and npx vitest run ${kernels}/${name}.`;
  return { files, edits, next };
}
