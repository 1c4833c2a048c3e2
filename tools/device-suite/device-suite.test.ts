import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { DeviceUnderTest } from './devices.js';
import { nodeDevices } from './node-devices.js';
import { closePage, pageDevices } from './page-devices.js';
import { convertedModels } from './suite/logits.js';

/** What every machine has, after npm install alone. */
const everywhere = ['node cpu', 'node wasm', 'node gpu.js webasm', 'node gpu.js cpu'];

/** The devices that must run here, by a list with commas between; the least of them by default. */
const expected = process.env['D2DMOE_DEVICES']?.split(',').map((name) => name.trim());

/** How many FFNs are drawn beside the 24 that always run. */
const draws = 8;
/** Software WebGPU compiles each shape for a second. */
const timeout = 300_000;

const ran: string[] = [];
/** What tfjs's cpu backend gives in Node with the composed op: the other devices have to give the same. */
const inNode = new Map<string, number[]>();

beforeAll(async () => {
  const [cpu] = nodeDevices as [DeviceUnderTest];
  await cpu.start();
  for (const model of convertedModels) inNode.set(model, (await cpu.logits(model)).logits);
});
afterAll(closePage);

describe.each([...nodeDevices, ...pageDevices])('$name', (device) => {
  let absence: string | undefined;
  beforeAll(async () => {
    try {
      await device.start();
      ran.push(device.name);
    } catch (error) {
      absence = (error as Error).message;
    }
  });

  test('the expert op is right and leaves no tensor behind', { timeout }, async ({ skip }) => {
    skip(absence !== undefined, absence);
    const { runs, worst } = await device.checkOp(draws);
    expect(runs).toBeGreaterThanOrEqual(24 + draws);
    expect(worst).toBeLessThan(1e-5);
    expect(worst).toBeGreaterThan(0);
  });

  test('1,000 passes leave no tensor and no memory of the GPU behind', { timeout }, async ({
    skip,
  }) => {
    skip(absence !== undefined, absence);
    expect(await device.leftAfter(1000)).toEqual({ tensors: 0, bytesOnGpu: 0 });
  });

  test.for(convertedModels)(
    'a converted %s gives the logits that it gives in Node',
    { timeout },
    async (model, { skip }) => {
      skip(absence !== undefined, absence);
      const { logits, density } = await device.logits(model);
      expect(density).toBeGreaterThan(0.1);
      expect(density).toBeLessThan(0.9);
      const reference = inNode.get(model) as number[];
      expect(logits.length).toBe(reference.length);
      const differences = logits.map((value, i) => Math.abs(value - (reference[i] as number)));
      expect(Math.max(...differences)).toBeLessThan(1e-3);
      expect(Math.max(...logits.map(Math.abs))).toBeGreaterThan(0.5);
    },
  );
});

/** The others store no weights in float16. */
const withFloat16 = [...nodeDevices, ...pageDevices].filter(({ name }) => name.endsWith('webgpu'));

test.for(withFloat16)(
  '$name: with weights stored in float16 the expert op is right to 2e-3',
  { timeout },
  async (device, { skip }) => {
    skip(!ran.includes(device.name), 'it did not start');
    await device.start();
    const { worst } = await device.checkOp(2, 'float16');
    expect(worst).toBeLessThan(2e-3);
    // Less would be float32.
    expect(worst).toBeGreaterThan(1e-5);
  },
);

test('the devices that are expected here are those that ran', () => {
  const missing = (expected ?? everywhere).filter((name) => !ran.includes(name));
  const surplus = expected === undefined ? [] : ran.filter((name) => !expected.includes(name));
  expect({ missing, surplus }).toEqual({ missing: [], surplus: [] });
});
