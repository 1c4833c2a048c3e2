// Builds libcuda-emulated.so: the CUDA driver's functions on host memory, with every kernel of kernels/cuda compiled by
// g++. `node tools/cuda-emulator/build.mjs [OUT [KERNELS]]`; only what changed is compiled. A kernel file that does not
// compile is reported and left out. Exits with 3 where g++ is missing.
import { createHash } from 'node:crypto';
import { spawn, spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { findKernels, translate } from './translate.mjs';

const here = fileURLToPath(new URL('.', import.meta.url));
const root = fileURLToPath(new URL('../..', import.meta.url));

const noCompiler = 'The CUDA emulator needs g++, which is not on the PATH.';

const language = ['-std=c++17', '-O2', '-fPIC', '-fvisibility=hidden', '-w'];
const preprocessing = ['-x', 'c++', '-std=c++17', '-E', '-DD2DMOE_EMULATED', `-I${here}include`];
preprocessing.push('-include', `${here}include/cuda-emulated.h`);
// Kernels reinterpret pointers at will; the checks make misaligned vectors, null and bad indices show as on the card.
const forKernels = ['-fno-strict-aliasing', '-fno-math-errno', '-fno-trapping-math'];
forKernels.push('-fno-exceptions', '-fsanitize=alignment,null,bounds');

/**
 * @typedef {object} Built
 * @property {string} library
 * @property {string} modules The folder of stand-ins for PTX files.
 * @property {number} kernels How many kernels the library holds.
 * @property {Record<string, string>} failures What the compiler said, by kernel file.
 */

/**
 * Builds the library into `out`, or finds it up to date. Two processes that build at once take turns.
 *
 * @param {string} [out]
 * @param {string} [kernels] The folder of .cu files.
 * @returns {Promise<Built>}
 */
export async function buildEmulator(
  out = join(root, 'packages/backend-cuda/.emulator'),
  kernels = join(root, 'kernels/cuda'),
) {
  mkdirSync(join(out, 'objects'), { recursive: true });
  const unlock = await lock(join(out, 'lock'));
  try {
    const stamp = fingerprint([...filesUnder(kernels), ...filesUnder(here)]);
    const record = join(out, 'build.json');
    if (existsSync(record)) {
      const last = JSON.parse(readFileSync(record, 'utf8'));
      if (last.stamp === stamp) return last.built;
    }
    const built = await compileAll(out, kernels);
    writeFileSync(record, JSON.stringify({ stamp, built }));
    return built;
  } finally {
    unlock();
  }
}

/**
 * @param {string} out
 * @param {string} kernels
 * @returns {Promise<Built>}
 */
async function compileAll(out, kernels) {
  const headers = filesUnder(kernels).filter((file) => !file.endsWith('.cu'));
  const prelude = hash([...filesUnder(`${here}include`), ...headers].map(read));
  const sources = readdirSync(kernels).filter((name) => name.endsWith('.cu'));
  const engine = ['driver', 'launch'];
  const jobs = [
    ...engine.map((name) => () => compileEngine(out, name)),
    ...sources.map((name) => () => compileKernels(out, join(kernels, name), prelude)),
  ];
  const results = await inPairs(jobs);

  const modules = join(out, 'modules');
  mkdirSync(modules, { recursive: true });
  const objects = [];
  /** @type {Record<string, string>} */
  const failures = {};
  /** @type {Map<string, string>} */
  const owners = new Map();
  for (const [index, result] of results.entries()) {
    const name = [...engine, ...sources][index] ?? '';
    const standIn = join(modules, `${basename(name, '.cu')}.ptx`);
    const twice = result.kernels.find((kernel) => owners.has(kernel));
    const error = twice ? `${twice} is in ${owners.get(twice)} already` : result.error;
    if (error !== undefined && index < engine.length) throw new Error(error);
    if (error !== undefined) {
      failures[name] = error;
      rmSync(standIn, { force: true });
      continue;
    }
    objects.push(result.object);
    for (const kernel of result.kernels) owners.set(kernel, name);
    if (index >= engine.length) {
      writeFileSync(standIn, `// emulated module ${basename(name, '.cu')}\n`);
    }
  }
  for (const file of readdirSync(modules)) {
    if (!sources.includes(file.replace(/\.ptx$/, '.cu'))) rmSync(join(modules, file));
  }
  const library = join(out, 'libcuda-emulated.so');
  // A process that has the old one open keeps it.
  const fresh = `${library}.${process.pid}`;
  const linked = await gxx(['-shared', '-o', fresh, ...objects, '-lm']);
  if (linked !== undefined) throw new Error(linked);
  renameSync(fresh, library);
  return { library, modules, kernels: owners.size, failures };
}

/**
 * @typedef {object} Compiled
 * @property {string} object
 * @property {string[]} kernels
 * @property {string} [error]
 */

/**
 * @param {string} out
 * @param {string} name
 * @returns {Promise<Compiled>}
 */
async function compileEngine(out, name) {
  const object = join(out, 'objects', `engine-${name}.o`);
  const files = [...filesUnder(`${here}src`), `${here}include/engine.h`];
  return remembered(object, hash([...files.map(read), language.join()]), async () => ({
    object,
    kernels: [],
    ...failed(await gxx(['-c', ...language, '-o', object, `${here}src/${name}.cpp`])),
  }));
}

/**
 * @param {string} out
 * @param {string} file
 * @param {string} prelude The hash of everything that the file can include.
 * @returns {Promise<Compiled>}
 */
async function compileKernels(out, file, prelude) {
  const name = basename(file, '.cu');
  const object = join(out, 'objects', `${name}.o`);
  const flags = [...language, ...forKernels];
  const translator = read(`${here}translate.mjs`);
  const key = hash([read(file), prelude, translator, flags.join()]);
  return remembered(object, key, async () => {
    const preprocessed = join(out, 'objects', `${name}.i`);
    const error = await gxx([...preprocessing, '-o', preprocessed, file]);
    if (error !== undefined) return { object, kernels: [], error };
    const text = translate(read(preprocessed), name);
    const kernels = findKernels(text);
    const lines = text.replace(/^#.*$/gm, '');
    return remembered(`${object}.text`, hash([lines, flags.join()]), async () => {
      const source = join(out, 'objects', `${name}.ii`);
      writeFileSync(source, text);
      const compile = ['-c', ...flags, '-x', 'c++-cpp-output', source, '-o', object];
      return { object, kernels, ...failed(await gxx(compile)) };
    });
  });
}

/**
 * The result that was written beside `path` under the same key, or a new one.
 *
 * @param {string} path
 * @param {string} key
 * @param {() => Promise<Compiled>} make
 * @returns {Promise<Compiled>}
 */
async function remembered(path, key, make) {
  const note = `${path}.json`;
  if (existsSync(note)) {
    const last = JSON.parse(readFileSync(note, 'utf8'));
    if (last.key === key) return last.result;
  }
  const result = await make();
  writeFileSync(note, JSON.stringify({ key, result }));
  return result;
}

/**
 * Runs the jobs, two at a time.
 *
 * @template T
 * @param {(() => Promise<T>)[]} jobs
 * @returns {Promise<T[]>}
 */
async function inPairs(jobs) {
  /** @type {T[]} */
  const results = [];
  let next = 0;
  const worker = async () => {
    while (next < jobs.length) {
      const index = next++;
      const job = jobs[index];
      if (job) results[index] = await job();
    }
  };
  await Promise.all([worker(), worker()]);
  return results;
}

/**
 * What g++ said if it failed.
 *
 * @param {string[]} args
 * @returns {Promise<string | undefined>}
 */
function gxx(args) {
  return new Promise((resolve, reject) => {
    const child = spawn('g++', args, { stdio: ['ignore', 'ignore', 'pipe'] });
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text) => (said += text));
    child.on('error', () => reject(new Error(noCompiler)));
    child.on('close', (code) => resolve(code === 0 ? undefined : said || `g++ ended with ${code}`));
  });
}

/** @param {string | undefined} error */
function failed(error) {
  return error === undefined ? {} : { error };
}

/** @param {string} path */
function read(path) {
  return readFileSync(path, 'utf8');
}

/** @param {string[]} texts */
function hash(texts) {
  const sum = createHash('sha256');
  for (const text of texts) sum.update(`${text.length}:`).update(text);
  return sum.digest('hex');
}

/** @param {string} folder */
function filesUnder(folder) {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() ?? false)
    .sort();
}

/** @param {string[]} files */
function fingerprint(files) {
  return hash(
    files.map((file) => {
      const { mtimeMs, size } = statSync(file);
      return `${file} ${mtimeMs} ${size}`;
    }),
  );
}

/**
 * Waits until no other living process holds the folder's lock, and takes it.
 *
 * @param {string} path
 * @returns {Promise<() => void>}
 */
async function lock(path) {
  for (;;) {
    try {
      writeFileSync(path, String(process.pid), { flag: 'wx' });
      return () => rmSync(path, { force: true });
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'EEXIST') throw error;
    }
    if (!holderLives(path)) rmSync(path, { force: true });
    else await sleep(100);
  }
}

/** @param {string} path */
function holderLives(path) {
  try {
    const pid = Number(readFileSync(path, 'utf8'));
    // Just created and not yet written, by a process that lives.
    if (pid === 0) return true;
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // No such process; a file that is gone means that the next attempt succeeds.
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (spawnSync('g++', ['--version']).error) {
    console.error(noCompiler);
    process.exit(3);
  }
  const began = performance.now();
  const { library, kernels, failures } = await buildEmulator(process.argv[2], process.argv[3]);
  for (const [file, error] of Object.entries(failures)) {
    const lines = error.split('\n').filter((line) => /error:|already/.test(line));
    console.error(`${file} does not compile and is left out:`);
    for (const line of lines.slice(0, 5)) console.error(`  ${line}`);
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  console.log(`${library}: ${kernels} kernels, ${seconds} s`);
}
