// The bench of the card: `main.js cuda [options]`, also as one file by bundle-cuda.mjs.
import { fileURLToPath } from 'node:url';
// tfjs-core registers no gradients by itself; this package does so for all of them.
import '@tensorflow/tfjs-layers';
import { type CudaBackend, useCuda } from '@d2dmoe/backend-cuda';
import { D2DMoEError, Random } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import { finishReport, rowLine, startReport, writeReport } from '../report.js';
import type { Row } from '../row.js';
import { bandwidthRows } from './bandwidth.js';
import { expertsRows, smallExpertsCases } from './experts.js';
import { flatMemoryRows } from './flat-memory.js';
import { forwardRows } from './forward.js';
import { hostTimeRows } from './host-time.js';
import { type CudaOptions, cudaUsage, readCudaOptions } from './options.js';
import { productRows, smallProductCases } from './products.js';
import { Torch } from './torch.js';
import { trainingRows } from './training.js';

/** Sizes for a first look, which an emulator can do as well. */
const small = { cases: smallProductCases, rows: 256, ops: 200, steps: 100 };

async function bench(options: CudaOptions, backend: CudaBackend): Promise<void> {
  const { filter, quick, checkpoint } = options;
  const torch = new Torch(options.peers ?? fileURLToPath(new URL('../../peers', import.meta.url)));
  const { name, driverVersion } = backend.device;
  const report = startReport({ quick }, `${name}, CUDA ${driverVersion.join('.')}`);
  const { gpu, cpu, cores, node } = report.machine;
  console.log(`${gpu}; ${cpu}, ${cores} cores, Node ${node.slice(1)}`);
  const random = new Random(7);
  const wanted = (name: string) => name.includes(filter);
  const add = (rows: Row[]) => {
    report.rows.push(...rows);
    for (const row of rows) console.log(rowLine(row));
    if (options.json !== undefined) writeReport(options.json, report);
  };

  add(
    await productRows(backend, random.fork('products'), {
      ...(quick && { cases: small.cases }),
      torch: (cases) => torch.run('torch_products.py', JSON.stringify(cases)),
      wanted,
    }),
  );
  const rows = quick ? small.rows : undefined;
  add(await bandwidthRows(backend, random.fork('bandwidth'), wanted, rows));
  add(hostTimeRows(backend, random.fork('host time'), wanted, quick ? small.ops : undefined));
  const experts = {
    ...(quick && { cases: smallExpertsCases }),
    torch: (layers: readonly string[]) => torch.run('torch_layers.py', JSON.stringify(layers)),
    wanted,
  };
  for await (const row of expertsRows(backend, random.fork('experts'), experts)) add([row]);
  add(await forwardRows(backend, options, wanted));
  const theirs = (folder: string) => torch.run('torch_training.py', folder);
  add(await trainingRows(backend, checkpoint, theirs, wanted));
  const steps = quick ? small.steps : undefined;
  add(await flatMemoryRows(backend, random.fork('memory'), wanted, steps));

  if (report.rows.length === 0) throw new Error(`No row's name contains "${filter}".`);
  finishReport(report, options.json);
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Fails with exit code 2 and a sentence. */
function refuse(sentence: string): undefined {
  console.error(`error: ${sentence}`);
  process.exitCode = 2;
  return undefined;
}

function options(): CudaOptions | undefined {
  try {
    return readCudaOptions(process.argv.slice(2));
  } catch (error) {
    return refuse(`${describe(error)}\n${cudaUsage}`);
  }
}

async function card(): Promise<CudaBackend | undefined> {
  try {
    await useCuda();
    return tf.backend() as CudaBackend;
  } catch (error) {
    if (!D2DMoEError.isInstance(error)) throw error;
    return refuse(error.message);
  }
}

const asked = options();
const backend = asked && (await card());
if (asked && backend) await bench(asked, backend);
