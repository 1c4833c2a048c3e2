// Compiles the CUDA kernels: kernels/cuda/X.cu becomes packages/backend-cuda/dist/ptx/X.ptx, for compute capability 8.0
// and newer, or for 9.0a where the name is X.sm90a.cu. What is up to date is left alone. Without nvcc (from NVIDIA's
// CUDA toolkit; D2DMOE_NVCC names one that is not on PATH) it says so and builds nothing: everything else of a clone
// works, and published packages contain the PTX.
import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const runFile = promisify(execFile);
const root = fileURLToPath(new URL('..', import.meta.url));
const sources = `${root}kernels/cuda`;
const out = `${root}packages/backend-cuda/dist/ptx`;

/** Processes of nvcc at once. */
const PROCESSES = 2;

/**
 * The PTX version that drivers of CUDA 12.0 read. nvcc stamps its own, which only the newest drivers read, on code that
 * needs none of it; a module that does keep nvcc's version, if ptxas refuses the older one.
 */
const OLD_PTX_VERSION = '8.0';

const nvcc = process.env['D2DMOE_NVCC'] ?? 'nvcc';
const version = spawnSync(nvcc, ['--version'], { encoding: 'utf8' });
if (version.error !== undefined || version.status !== 0) {
  console.log(
    `The CUDA kernels were not built: ${nvcc} is missing (install NVIDIA's CUDA toolkit 12 or newer, or set D2DMOE_NVCC); @d2dmoe/backend-cuda needs them, all other packages do without.`,
  );
  process.exit(0);
}

mkdirSync(out, { recursive: true });
const files = readdirSync(sources).sort();
const headers = files.filter((file) => file.endsWith('.cuh'));
const modules = files.filter((file) => file.endsWith('.cu')).map((file) => file.slice(0, -3));

/** @param {string} file */
const contents = (file) => readFileSync(`${sources}/${file}`, 'utf8');

/**
 * The headers that a source reaches.
 *
 * @param {string} file
 * @param {Set<string>} [seen]
 * @returns {Set<string>}
 */
function includes(file, seen = new Set()) {
  for (const [, name = ''] of contents(file).matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
    if (!headers.includes(name) || seen.has(name)) continue;
    seen.add(name);
    includes(name, seen);
  }
  return seen;
}

/**
 * What a module's PTX depends on: its sources, this script, the compiler.
 *
 * @param {string} module
 */
function fingerprint(module) {
  const hash = createHash('sha256')
    .update(version.stdout)
    .update(readFileSync(import.meta.filename));
  for (const file of [`${module}.cu`, ...[...includes(`${module}.cu`)].sort()]) {
    hash.update(file).update(contents(file));
  }
  return hash.digest('hex').slice(0, 32);
}

/**
 * @param {string} module
 * @param {string} mark The fingerprint, which is the first line of the PTX.
 */
async function build(module, mark) {
  const isHopper = module.endsWith('.sm90a');
  const temporary = `${tmpdir()}/d2dmoe-${process.pid}-${module}`;
  try {
    const flags = ['-ptx', `-arch=${isHopper ? 'compute_90a' : 'compute_80'}`, '-std=c++17', '-O3'];
    await runFile(nvcc, [...flags, '-o', `${temporary}.ptx`, `${sources}/${module}.cu`]);
    const made = readFileSync(`${temporary}.ptx`, 'utf8');
    const older = made.replace(/^\.version .*$/m, `.version ${OLD_PTX_VERSION}`);
    writeFileSync(`${temporary}.ptx`, older);
    const target = isHopper ? 'sm_90a' : 'sm_80';
    const check = ['-O0', `-arch=${target}`, '-o', `${temporary}.cubin`, `${temporary}.ptx`];
    const reads = await runFile('ptxas', check).then(
      () => true,
      () => false,
    );
    writeFileSync(`${temporary}.ptx`, `// ${mark}\n${reads ? older : made}`);
    // Beside the target first: a rename within one folder is atomic.
    writeFileSync(`${out}/.${module}.${process.pid}`, readFileSync(`${temporary}.ptx`));
    renameSync(`${out}/.${module}.${process.pid}`, `${out}/${module}.ptx`);
    const kept = reads ? '' : ' (needs the PTX version of this nvcc)';
    console.log(`kernels/cuda/${module}.cu -> ${module}.ptx${kept}`);
  } finally {
    rmSync(`${temporary}.ptx`, { force: true });
    rmSync(`${temporary}.cubin`, { force: true });
  }
}

const names = process.argv.slice(2);
const queue = modules.filter((module) => names.length === 0 || names.includes(module));
/** @type {string[]} */
const failures = [];

async function work() {
  for (let module = queue.shift(); module !== undefined; module = queue.shift()) {
    const mark = fingerprint(module);
    const ptx = `${out}/${module}.ptx`;
    if (existsSync(ptx) && readFileSync(ptx, 'utf8').startsWith(`// ${mark}\n`)) continue;
    try {
      await build(module, mark);
    } catch (error) {
      const { stderr } = /** @type {{stderr?: string}} */ (error);
      failures.push(`kernels/cuda/${module}.cu: ${stderr?.trim() || String(error)}`);
    }
  }
}
await Promise.all(Array.from({ length: PROCESSES }, work));

// A module whose source is gone must not be found by a program that is gone too.
for (const file of readdirSync(out)) {
  if (file.endsWith('.ptx') && !modules.includes(file.slice(0, -4))) rmSync(`${out}/${file}`);
}
if (failures.length > 0) {
  console.error(failures.join('\n\n'));
  process.exit(1);
}
