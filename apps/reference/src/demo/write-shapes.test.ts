import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '@d2dmoe/core';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loadDataset } from '../data/index.js';
import { drawShapes, shapeNames } from './shapes.js';
import { encodePng, writeShapes } from './write-shapes.js';

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'd2dmoe-shapes-'));
});
afterEach(() => rm(folder, { recursive: true }));

const counts = { train: 40, validation: 16, test: 24 };

test('the folder loads as a data set with these splits and classes', async () => {
  const directory = join(folder, 'shapes');
  await writeShapes(directory, { ...counts, random: new Random(1) });
  const data = await loadDataset(directory, 'image-classification', { random: new Random(0) });
  expect(data.format).toBe('image-folder');
  expect(data.labels).toEqual([...shapeNames]);
  expect([data.train.length, data.validation.length, data.test.length]).toEqual([40, 16, 24]);
  expect(data.splitOff).toBeUndefined();
  const { width, height, channels, format } = await sharp(data.train[0]?.image).metadata();
  expect({ width, height, channels, format }).toEqual({
    width: 16,
    height: 16,
    channels: 3,
    format: 'png',
  });
});

test('a split is the same whatever the sizes of the others', async () => {
  const [a, b] = [join(folder, 'a'), join(folder, 'b')];
  await writeShapes(a, { ...counts, random: new Random(1) });
  await writeShapes(b, { ...counts, train: 8, random: new Random(1) });
  for (const name of await readdir(join(a, 'test', 'disc'))) {
    const [x, y] = await Promise.all([a, b].map((d) => readFile(join(d, 'test', 'disc', name))));
    expect(x).toEqual(y);
  }
});

test('what an interrupted run left is replaced, a finished folder is not', async () => {
  const directory = join(folder, 'shapes');
  await writeShapes(`${directory}.partial`, { ...counts, random: new Random(2) });
  await writeShapes(directory, { ...counts, random: new Random(1) });
  expect(await readdir(folder)).toEqual(['shapes']);
  await expect(writeShapes(directory, { ...counts, random: new Random(1) })).rejects.toThrow(
    expect.objectContaining({ code: 'OUTPUT_EXISTS' }),
  );
});

test('a PNG holds the pixels to 8 bits', async () => {
  const { pixels } = drawShapes({ count: 1, random: new Random(5) });
  const { data } = await sharp(await encodePng(pixels, 16))
    .raw()
    .toBuffer({ resolveWithObject: true });
  for (let i = 0; i < 256; i++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = (data[3 * i + channel] as number) / 127.5 - 1;
      expect(Math.abs(value - (pixels[channel * 256 + i] as number))).toBeLessThan(1 / 255 + 1e-6);
    }
  }
});
