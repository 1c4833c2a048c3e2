// The bench of WebGPU in Node: `main.js webgpu [options]`, also as one file by bundle-webgpu.mjs.
import { useWebGPU, type WebGPUDevice } from '@d2dmoe/backend-webgpu/node';
import { D2DMoEError } from '@d2dmoe/core';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { finishReport, rowLine, startReport, writeReport } from '../report.js';
import { feedForwardCases, feedForwardRows, smallFeedForwardCases } from './feed-forward.js';
import { readWebGPUOptions, type WebGPUOptions, webgpuUsage } from './options.js';
import { measurePeaks, type Peaks } from './peaks.js';
import { turns } from './timing.js';

async function bench({ filter, quick, json }: WebGPUOptions, device: WebGPUDevice): Promise<void> {
  const backend = tf.backend() as WebGPUBackend;
  const name = `${device.description || device.architecture}, WebGPU`;
  const report = startReport({ quick }, name);
  const { cpu, cores, node } = report.machine;
  console.log(`${name}; ${cpu}, ${cores} cores, Node ${node.slice(1)}`);
  const peaks = await measurePeaks(backend.device, quick ? 2 ** -13 : 1).catch(unknownPeaks);
  const { operationsPerMillisecond, bytesPerMillisecond } = peaks;
  console.log(
    `${(operationsPerMillisecond / 1e9).toFixed(2)} TFLOP/s in float32, ${(bytesPerMillisecond / 1e6).toFixed(0)} GB/s in a copy`,
  );
  for (const layerCase of quick ? smallFeedForwardCases : feedForwardCases) {
    const schedule = quick ? { rounds: 3, turn: 1 } : turns;
    const wanted = (row: string) => row.includes(filter);
    const rows = await feedForwardRows(backend, layerCase, peaks, schedule, wanted);
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

async function adapter(): Promise<WebGPUDevice | undefined> {
  try {
    return await useWebGPU();
  } catch (error) {
    if (!D2DMoEError.isInstance(error)) throw error;
    return refuse(error.message);
  }
}

const asked = options();
const device = asked && (await adapter());
if (asked && device) await bench(asked, device);
