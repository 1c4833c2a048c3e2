// tfjs-core's own test suite on the cuda backend:
//   node tools/conformance/run.mjs [--emulated] [--filter REGEX] [--json FILE] [--backend cuda|cpu]
//   node tools/conformance/run.mjs --bundle FILE     only writes the suite and the backend as one file
//   node tools/conformance/run.mjs --run FILE        runs such a file; nothing but koffi need be installed
// Exits with 1 where a spec failed, where a kernel of another backend ran, or where fewer than 4,000 specs ran unfiltered.
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { exclusions } from './exclusions.mjs';

const root = fileURLToPath(new URL('../..', import.meta.url));
const fewestSpecs = 4000;
const shownFailures = 60;

const { values: options } = parseArgs({
  options: {
    emulated: { type: 'boolean', default: false },
    filter: { type: 'string', default: '' },
    json: { type: 'string' },
    backend: { type: 'string', default: 'cuda' },
    bundle: { type: 'string' },
    run: { type: 'string' },
  },
});

if (options.bundle !== undefined) {
  const { bundleSuite } = await import('./bundle.mjs');
  await bundleSuite(options.backend, resolve(options.bundle));
} else {
  if (options.emulated) await emulate();
  process.env['D2DMOE_CUDA_MODULES'] ??= join(root, 'packages/backend-cuda/dist/ptx');
  const suite = await load(options.run);
  process.exit(report(await suite.runSuite({ filter: new RegExp(options.filter), excludes })));
}

/** @param {string} name */
function excludes(name) {
  return exclusions.some((exclusion) => name.includes(exclusion.name));
}

/**
 * The bundle that was named, or one that is made here and gone once it is loaded.
 *
 * @param {string | undefined} named
 */
async function load(named) {
  if (named !== undefined) return import(pathToFileURL(resolve(named)).href);
  const { bundleSuite } = await import('./bundle.mjs');
  const folder = join(root, 'tools/conformance/.bundle');
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${process.pid}.mjs`);
  await bundleSuite(options.backend, file);
  try {
    return await import(pathToFileURL(file).href);
  } finally {
    rmSync(file);
  }
}

/** Puts the emulator in the driver's place. */
async function emulate() {
  const { buildEmulator } = await import('../cuda-emulator/build.mjs');
  const { library, modules, failures } = await buildEmulator();
  for (const file of Object.keys(failures)) {
    console.error(`${file} does not compile (node tools/cuda-emulator/build.mjs says why)`);
  }
  process.env['D2DMOE_LIBCUDA'] = library;
  process.env['D2DMOE_CUDA_MODULES'] = modules;
  // One kernel's mistake fails its own specs alone.
  process.env['EMULATED_CUDA_FORGIVING'] = '1';
}

/**
 * Prints what the run came to and returns the exit code.
 *
 * @param {import('./suite/run-suite.mjs').SuiteResult} result
 */
function report(result) {
  if (options.json !== undefined) {
    const text = JSON.stringify({ ...result, exclusions }, undefined, 1);
    writeFileSync(options.json, `${text}\n`);
  }
  const failed = result.specs.filter((spec) => spec.status === 'failed');
  const passed = result.specs.filter((spec) => spec.status === 'passed').length;
  const pending = result.specs.length - failed.length - passed;
  for (const spec of failed.slice(0, shownFailures)) {
    console.log(`FAILED ${spec.name}`);
    for (const message of spec.messages.slice(0, 2)) console.log(`  ${shorten(message)}`);
  }
  if (failed.length > shownFailures) console.log(`… and ${failed.length - shownFailures} more`);
  for (const stray of result.strays.slice(0, 20)) console.log(`ANOTHER BACKEND ${stray}`);

  const ran = passed + failed.length;
  const tooFew = options.filter === '' && ran < fewestSpecs;
  if (tooFew) console.log(`Only ${ran} specs ran; a whole run has at least ${fewestSpecs}.`);
  const kernels = result.kernelRuns[result.backend] ?? 0;
  console.log(
    `${result.backend}: ${ran} specs ran, ${passed} passed, ${failed.length} failed, ` +
      `${result.excluded.length} excluded, ${pending} pending in the suite itself; ${kernels} kernel runs`,
  );
  return failed.length > 0 || result.strays.length > 0 || tooFew || ran === 0 ? 1 : 0;
}

/** @param {string} text */
function shorten(text) {
  const line = text.replace(/\s+/g, ' ');
  return line.length <= 300 ? line : `${line.slice(0, 200)} … ${line.slice(-90)}`;
}
