// The bench: `main.js cpu [options]`, `main.js cuda [options]` or `main.js webgpu [options]`. Exit code 0 if every row was
// measured and every bar holds, 1 if not, 2 for a command line that makes no sense and for a GPU that is not there.
import { timedCases } from './cases.js';
import { measureMemory, memoryRowName } from './memory.js';
import { type Options, readOptions, usage } from './options.js';
import { PeerProcess } from './peer-process.js';
import { finishReport, rowLine, startReport } from './report.js';
import type { Row } from './row.js';
import { runCase } from './run-case.js';

async function bench(options: Options): Promise<void> {
  const { filter = '', threads, quick, rounds } = options;
  const relaxedSimd = await hasRelaxedSimd();
  const report = startReport({ relaxedSimd, threads, quick });
  const { cpu, cores, node } = report.machine;
  console.log(
    `${cpu}, ${cores} cores, Node ${node.slice(1)}, ${relaxedSimd ? 'with' : 'without'} relaxed SIMD`,
  );
  const add = (rows: Row[]) => {
    report.rows.push(...rows);
    for (const row of rows) console.log(rowLine(row));
  };
  for (const benchCase of timedCases({ relaxedSimd, threads })) {
    const rows = benchCase.rows.filter(({ name }) => name.includes(filter));
    if (rows.length === 0) continue;
    add(await runCase({ ...benchCase, rows }, { rounds, turn: quick ? 15 : 60 }));
  }
  if (memoryRowName.includes(filter)) add([await measureMemory(quick ? 1 : 3)]);
  if (report.rows.length === 0) throw new Error(`No row's name contains "${filter}".`);
  finishReport(report, options.json);
}

async function hasRelaxedSimd(): Promise<boolean> {
  const peer = new PeerProcess('d2dmoe', 1);
  try {
    return (await peer.start())['relaxedSimd'] === true;
  } finally {
    peer.end();
  }
}

async function cpu(): Promise<void> {
  let options: Options;
  try {
    options = readOptions(process.argv.slice(2));
  } catch (error) {
    console.error(`error: ${(error as Error).message}\n${usage}`);
    process.exitCode = 2;
    return;
  }
  await bench(options);
}

if (process.argv[2] === 'cuda') await import('./cuda/main.js');
else if (process.argv[2] === 'webgpu') await import('./webgpu/main.js');
else await cpu();
