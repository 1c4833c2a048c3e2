// The bench of WebGPU in Node or, with --page, in Chromium: `main.js webgpu [options]`, also as one file by bundle-webgpu.mjs.
import { useWebGPU } from '@d2dmoe/backend-webgpu/node';
import { D2DMoEError } from '@d2dmoe/core';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { finishReport, rowLine, startReport, writeReport } from '../report.js';
import type { BenchDevice } from './bench-device.js';
import { feedForwardCases, feedForwardRows, smallFeedForwardCases } from './feed-forward.js';
import { readWebGPUOptions, type WebGPUOptions, webgpuUsage } from './options.js';
import { measurePeaks, type Peaks } from './peaks.js';
import { turns } from './timing.js';

async function bench({ filter, quick, json }: WebGPUOptions, device: BenchDevice): Promise<void> {
  const report = startReport({ quick }, device.name);
  const { cpu, cores, node } = report.machine;
  console.log(`${device.name}; ${cpu}, ${cores} cores, Node ${node.slice(1)}`);
  const peaks = await device.peaks(quick ? 2 ** -13 : 1).catch(unknownPeaks);
  const { operationsPerMillisecond, bytesPerMillisecond } = peaks;
  console.log(
    `${(operationsPerMillisecond / 1e9).toFixed(2)} TFLOP/s in float32, ${(bytesPerMillisecond / 1e6).toFixed(0)} GB/s in a copy`,
  );
  for (const layerCase of quick ? smallFeedForwardCases : feedForwardCases) {
    const schedule = quick ? { rounds: 3, turn: 1 } : turns;
    const rows = await device.rows(layerCase, peaks, schedule, filter);
    report.rows.push(...rows);
    for (const row of rows) console.log(rowLine(row));
    // Whoever ends a run that takes too long has what was measured until then.
    if (json !== undefined) writeReport(json, report);
  }
  if (report.rows.length === 0) throw new Error(`No row's name contains "${filter}".`);
  finishReport(report, json);
}

/** The rows that need the device's rates then fail, and no others. */
function unknownPeaks(error: unknown): Peaks {
  console.error(`The device's rates could not be measured: ${(error as Error).message}`);
  return { operationsPerMillisecond: Number.NaN, bytesPerMillisecond: Number.NaN };
}

/** Fails with exit code 2 and a sentence. */
function refuse(sentence: string): undefined {
  console.error(`error: ${sentence}`);
  process.exitCode = 2;
  return undefined;
}

function options(): WebGPUOptions | undefined {
  try {
    return readWebGPUOptions(process.argv.slice(2));
  } catch (error) {
    return refuse(`${(error as Error).message}\n${webgpuUsage}`);
  }
}

async function nodeDevice(): Promise<BenchDevice> {
  const { description, architecture } = await useWebGPU();
  const backend = tf.backend() as WebGPUBackend;
  return {
    name: `${description || architecture}, WebGPU`,
    peaks: (share) => measurePeaks(backend.device, share),
    rows: (layerCase, peaks, schedule, filter) =>
      feedForwardRows(backend, layerCase, peaks, schedule, (name) => name.includes(filter)),
    close: () => Promise.resolve(),
  };
}

async function open({ page }: WebGPUOptions): Promise<BenchDevice | undefined> {
  try {
    if (!page) return await nodeDevice();
    // A bundle for a machine without npm has no page.
    const { openBenchPage } = await import('./page.js');
    return await openBenchPage();
  } catch (error) {
    if (!page && !D2DMoEError.isInstance(error)) throw error;
    return refuse((error as Error).message);
  }
}

const asked = options();
const device = asked && (await open(asked));
if (asked && device) {
  try {
    await bench(asked, device);
  } finally {
    await device.close();
  }
}
