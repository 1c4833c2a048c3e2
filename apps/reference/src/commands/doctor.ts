import { availableParallelism, freemem, totalmem } from 'node:os';
import { cudaInfo } from '@d2dmoe/backend-cuda';
import { type DeviceName, listDevices, useDevice } from '../device.js';
import { measureRate } from '../plan.js';
import { defineCommand } from '../terminal/arguments.js';
import { formatBytes, formatCount } from '../terminal/format.js';
import { type Context, jsonOption, writeJson } from './options.js';

export const doctorCommand = defineCommand(
  {
    name: 'doctor',
    summary: 'Say what this machine has to compute on, what not, and why',
    positionals: [],
    options: [jsonOption],
  },
  async ({ json }, _context: Context) => {
    const devices: Record<string, unknown>[] = [];
    for (const report of await listDevices()) {
      const { name, available: there } = report;
      const description = there ? report.description : report.reason;
      const rate = there && name !== 'cpu' ? await rateOf(name as DeviceName) : undefined;
      devices.push({
        name,
        there,
        description,
        ...(rate !== undefined && { multiplyAddsPerSecond: rate }),
      });
    }
    const machine = {
      node: process.versions.node,
      platform: `${process.platform} ${process.arch}`,
      cores: availableParallelism(),
      memory: totalmem(),
      freeMemory: freemem(),
    };
    console.log(
      `Node ${machine.node} on ${machine.platform}, ${machine.cores} cores, ${formatBytes(machine.memory)} of memory (${formatBytes(machine.freeMemory)} free)`,
    );
    for (const { name, there, description, multiplyAddsPerSecond } of devices) {
      const rate = multiplyAddsPerSecond
        ? `, ${formatCount(multiplyAddsPerSecond as number)} multiply-adds per second`
        : '';
      console.log(
        `  ${there ? 'yes' : 'no '}  ${String(name).padEnd(6)} ${String(description)}${rate}`,
      );
    }
    console.log('auto takes the first that is there, but webgpu only where it is asked for.');
    const cuda = cudaInfo();
    if (cuda.driver) {
      const { library, version } = cuda.driver;
      console.log(`CUDA driver: ${library}, version ${version.join('.')}`);
    }
    await writeJson(json, { ...machine, devices, cuda });
  },
);

async function rateOf(device: DeviceName): Promise<number> {
  await useDevice(device);
  return await measureRate();
}
