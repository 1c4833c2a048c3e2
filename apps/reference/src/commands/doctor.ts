import { availableParallelism, freemem, totalmem } from 'node:os';
import { cudaInfo } from '@d2dmoe/backend-cuda';
import { D2DMoEError } from '@d2dmoe/core';
import { type DeviceName, useDevice } from '../device.js';
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
    for (const name of ['cuda', 'wasm', 'cpu'] satisfies DeviceName[]) {
      try {
        const { description } = await useDevice(name);
        const rate = name === 'cpu' ? undefined : await measureRate();
        devices.push({
          name,
          there: true,
          description,
          ...(rate && { multiplyAddsPerSecond: rate }),
        });
      } catch (error) {
        if (!D2DMoEError.isInstance(error)) throw error;
        devices.push({ name, there: false, description: error.message });
      }
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
        `  ${there ? 'yes' : 'no '}  ${String(name).padEnd(5)} ${String(description)}${rate}`,
      );
    }
    console.log('auto takes the first that is there.');
    const cuda = cudaInfo();
    if (cuda.driver) {
      const { library, version } = cuda.driver;
      console.log(`CUDA driver: ${library}, version ${version.join('.')}`);
    }
    await writeJson(json, { ...machine, devices, cuda });
  },
);
