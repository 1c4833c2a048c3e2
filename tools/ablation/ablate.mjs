/**
 * Runs conversions that differ in their options side by side and prints one table, on the validation split.
 *
 *   node tools/ablation/ablate.mjs VARIANTS.json OUT [--parallel 2] [--test] -- CKPT --data DIR [options of d2dmoe convert]
 *
 * VARIANTS.json holds by name `{ "options": ["--distill", "0"], "after": "another variant" }`. A variant with `after`
 * starts when that one is done, from a copy of its stages: those whose settings are the same are skipped.
 */
import { spawn } from 'node:child_process';
import { cp, mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const here = dirname(fileURLToPath(import.meta.url));
const command =
  process.env['D2DMOE_COMMAND'] ?? join(here, '..', '..', 'apps', 'reference', 'dist', 'cli.js');

const own = process.argv.slice(2);
const separator = own.indexOf('--');
const shared = separator === -1 ? [] : own.slice(separator + 1);
const { values, positionals } = parseArgs({
  args: separator === -1 ? own : own.slice(0, separator),
  allowPositionals: true,
  options: { parallel: { type: 'string', default: '2' }, test: { type: 'boolean' } },
});
const [file, out] = positionals;
if (file === undefined || out === undefined || shared.length === 0) {
  console.error(
    'usage: ablate.mjs VARIANTS.json OUT [--parallel N] [--test] -- CKPT --data DIR [options]',
  );
  process.exit(2);
}
const runs = out;
/** @type {Record<string, { options?: string[], after?: string }>} */
const variants = JSON.parse(await readFile(file, 'utf8'));
for (const [name, { after }] of Object.entries(variants)) {
  if (after !== undefined && !(after in variants)) {
    console.error(`${file}: "${name}" comes after "${after}", which is no variant.`);
    process.exit(2);
  }
}

/** Runs one variant. @param {string} name */
async function convert(name) {
  const { options = [], after } = variants[name] ?? {};
  const folder = join(runs, name);
  await mkdir(folder, { recursive: true });
  const stages = after && join(runs, after, 'stages');
  if (stages && (await stat(stages).catch(() => undefined))) {
    // The last stage of training is what most variants change, and would count as theirs where they leave it out.
    const filter = (/** @type {string} */ path) => basename(path) !== 'finetune';
    await cp(stages, join(folder, 'stages'), { recursive: true, filter });
  }
  const args = [command, 'convert', ...shared, ...options, '--out', folder];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (log += text));
  const code = await new Promise((resolve) => child.on('close', resolve));
  await writeFile(join(folder, 'convert.log'), log);
  if (code !== 0) {
    console.log(`${name}: ended with ${code}, see ${join(folder, 'convert.log')}`);
    return;
  }
  console.log(await row(name, folder));
}

/** @param {string} name @param {string} folder */
async function row(name, folder) {
  const read = async (/** @type {string} */ of) =>
    JSON.parse(await readFile(join(folder, of), 'utf8'));
  const { operating_points: points } = await read('calibration.json');
  const curve = await read('curve.json');
  let seconds = 0;
  for (const stage of ['sparsify', 'attention', 'split', 'route', 'finetune']) {
    const record = await read(join('stages', stage, `${stage}.stage.json`)).catch(() => undefined);
    seconds += record?.seconds ?? 0;
  }
  const cells = Object.entries(points).map(([point, { score, cost }]) => {
    const tested = curve.operating_points.find(
      (/** @type {{ name: string }} */ other) => other.name === point,
    )?.point;
    const test =
      values.test && tested
        ? ` (test ${tested.score.toFixed(4)} at ${tested.cost.toFixed(3)})`
        : '';
    return `${point}: ${score.toFixed(4)} at ${cost.toFixed(3)}${test}`;
  });
  return [name.padEnd(24), `${seconds.toFixed(0)} s`.padStart(7), ...cells].join(' | ');
}

const waiting = new Set(Object.keys(variants));
/** @type {Set<string>} */
const done = new Set();
/** @type {Map<string, Promise<void>>} */
const running = new Map();
while (waiting.size + running.size > 0) {
  for (const name of waiting) {
    const { after } = variants[name] ?? {};
    if (running.size >= Number(values.parallel) || (after !== undefined && !done.has(after)))
      continue;
    waiting.delete(name);
    const work = convert(name).then(() => {
      done.add(name);
      running.delete(name);
    });
    running.set(name, work);
  }
  if (running.size === 0)
    throw new Error(`These come after each other in a circle: ${[...waiting].join(', ')}.`);
  await Promise.race(running.values());
}
