import { mkdir, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import type { Random } from '@d2dmoe/core';
import { attemptWrite } from '@d2dmoe/safetensors/node';
import sharp from 'sharp';
import { drawShapes, shapeNames } from './shapes.js';

/** How many images each split gets, how large they are and what draws them. */
export interface WriteShapesOptions {
  train: number;
  validation: number;
  test: number;
  /** Width and height in pixels; 16 by default. */
  size?: number;
  /** Each split draws from a fork of its own, so that its images do not depend on the others' counts. */
  random: Random;
}

/**
 * Writes the demo's images as an image folder: `train/disc/00000.png` and so on for each split. The folder appears
 * whole or not at all: it is written as `directory.partial` and renamed. Throws OUTPUT_EXISTS where there is already
 * a folder with something in it, DISK_FULL or WRITE_FAILED where it cannot be written.
 */
export async function writeShapes(directory: string, options: WriteShapesOptions): Promise<void> {
  const existing = await readdir(directory).catch(() => []);
  if (existing.length > 0) {
    throw new D2DMoEError(
      'OUTPUT_EXISTS',
      `${directory} must be empty or absent, but it has files in it.`,
    );
  }
  const partial = `${directory}.partial`;
  await rm(partial, { recursive: true, force: true });
  try {
    await attemptWrite(directory, async () => {
      await writeSplits(partial, options);
      await rename(partial, directory);
    });
  } catch (error) {
    await rm(partial, { recursive: true, force: true });
    throw error;
  }
}

async function writeSplits(
  directory: string,
  { size = 16, random, ...counts }: WriteShapesOptions,
): Promise<void> {
  for (const split of ['train', 'validation', 'test'] as const) {
    for (const name of shapeNames) await mkdir(join(directory, split, name), { recursive: true });
    const count = counts[split];
    const images = drawShapes({ count, size, random: random.fork(split) });
    const digits = String(count).length;
    for (let start = 0; start < count; start += 64) {
      const batch = Array.from({ length: Math.min(64, count - start) }, (_, i) => start + i);
      await Promise.all(
        batch.map(async (i) => {
          const name = shapeNames[images.labels[i] as number] as string;
          const file = `${String(i).padStart(digits, '0')}.png`;
          const chw = images.pixels.subarray(i * 3 * size * size, (i + 1) * 3 * size * size);
          await writeFile(join(directory, split, name, file), await encodePng(chw, size));
        }),
      );
    }
  }
}

/** A [3, size, size] image from −1 to 1 as PNG, 8 bits a colour. */
export function encodePng(pixels: Float32Array, size: number): Promise<Buffer> {
  const bytes = new Uint8Array(size * size * 3);
  for (let channel = 0; channel < 3; channel++) {
    for (let i = 0; i < size * size; i++) {
      bytes[3 * i + channel] = Math.round(
        ((pixels[channel * size * size + i] as number) + 1) * 127.5,
      );
    }
  }
  return sharp(bytes, { raw: { width: size, height: size, channels: 3 } })
    .png()
    .toBuffer();
}
