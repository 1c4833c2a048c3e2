// What the scripts of the root package.json call: `node tools/run.mjs TASK [arguments]`, a task of the list below. It
// needs Node and npm, nothing else: it installs and builds what is missing, then does the job.

const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 20 || (major === 20 && minor < 19)) {
  console.error(
    `error: this is Node ${process.versions.node}, but d2dmoe needs Node 20.19 or newer (https://nodejs.org).`,
  );
  process.exit(2);
}

const { build } = await import('./workspace/build.mjs');
const { run, endLike } = await import('./workspace/children.mjs');
const { runGates } = await import('./workspace/gates.mjs');
const { install, installBenchPeers } = await import('./workspace/install.mjs');
const { create } = await import('./workspace/new.mjs');
const { root, settleEnvironment } = await import('./workspace/paths.mjs');
const { release } = await import('./workspace/release.mjs');

/** @type {Record<string, (args: string[]) => Promise<void>>} */
const tasks = {
  demo: (args) => app(['demo', ...args]),
  d2dmoe: app,
  build: () => build(),
  bench,
  docs,
  release,
  new: create,
  test: (args) => runGates(args),
};

/** @param {string[]} args */
async function app(args) {
  await build('d2dmoe');
  await runScript('apps/reference/dist/cli.js', args);
}

/** @param {string[]} args */
async function bench(args) {
  await build('@d2dmoe/bench');
  // Those of the card and of WebGPU in Node have none of them.
  if (!['cuda', 'webgpu'].includes(args[0] ?? '') || args.includes('--page')) {
    await installBenchPeers();
  }
  await runScript('tools/bench/dist/main.js', args);
}

/** @param {string[]} args */
async function docs(args) {
  await build();
  await runScript('tools/api/site.mjs', args);
}

/**
 * Runs a script of the workspace in the directory that the user called from, which npm leaves in INIT_CWD.
 *
 * @param {string} script
 * @param {string[]} args
 */
async function runScript(script, args) {
  const cwd = process.env['INIT_CWD'] ?? process.cwd();
  endLike(await run(process.execPath, [`${root}/${script}`, ...args], { cwd }));
}

const [name = '', ...args] = process.argv.slice(2);
const task = Object.hasOwn(tasks, name) ? tasks[name] : undefined;
if (task === undefined) {
  console.error(`error: "${name}" is no task; the tasks are ${Object.keys(tasks).join(', ')}.`);
  process.exit(2);
}
settleEnvironment();
await install();
await task(args);
