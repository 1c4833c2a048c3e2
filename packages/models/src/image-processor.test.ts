import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp from 'sharp';
import { expect, test } from 'vitest';
import { temporaryFolder } from '../testing/folder.js';
import { refusal } from '../testing/refusal.js';
import { loadImageProcessor } from './image-processor.js';

const defaults = {
  do_resize: true,
  size: { height: 2, width: 2 },
  do_rescale: true,
  rescale_factor: 1 / 255,
  do_normalize: true,
  image_mean: [0.5, 0.25, 0],
  image_std: [0.5, 0.25, 1],
  resample: 2,
};

async function load(changes: Record<string, unknown> = {}) {
  const directory = temporaryFolder();
  const config = JSON.stringify({ ...defaults, ...changes });
  writeFileSync(join(directory, 'preprocessor_config.json'), config);
  return loadImageProcessor(directory);
}

const png = (width: number, height: number, channels: 1 | 2 | 3 | 4, values: number[]) =>
  sharp(Uint8Array.from(values), { raw: { width, height, channels } }).png().toBuffer();

/** What the four pixels of an RGB image must become, channel by channel. */
const expected = (values: number[]) =>
  [0, 1, 2].flatMap((channel) =>
    [0, 1, 2, 3].map((pixel) => {
      const value = (values[3 * pixel + channel] as number) / 255;
      return (
        (value - (defaults.image_mean[channel] as number)) / (defaults.image_std[channel] as number)
      );
    }),
  );

/** Rounded to five digits, as float32 and the division allow. */
const rounded = (values: Iterable<number>) => Array.from(values, (x) => Number(x.toFixed(5)) + 0);

test('an image of the right size is rescaled and normalised, channels first', async () => {
  const values = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 255];
  const processor = await load();
  expect(processor.size).toEqual({ height: 2, width: 2 });
  expect(rounded(await processor.process(await png(2, 2, 3, values)))).toEqual(
    rounded(expected(values)),
  );
});

test('grey images become RGB, and transparency is dropped', async () => {
  const processor = await load();
  const grey = [0, 80, 160, 255];
  const rgb = grey.flatMap((value) => [value, value, value]);
  expect(rounded(await processor.process(await png(2, 2, 1, grey)))).toEqual(
    rounded(expected(rgb)),
  );
  const transparent = grey.flatMap((value) => [value, 7, 9, 100]);
  expect(rounded(await processor.process(await png(2, 2, 4, transparent)))).toEqual(
    rounded(expected(grey.flatMap((v) => [v, 7, 9]))),
  );
});

test('another size is resized; a file is read by its path', async () => {
  const processor = await load({ size: 2 });
  const left = [200, 100, 50];
  const right = [20, 40, 60];
  const row = [
    ...Array.from({ length: 8 }, () => left),
    ...Array.from({ length: 8 }, () => right),
  ].flat();
  const path = join(temporaryFolder(), 'image.png');
  writeFileSync(path, await png(16, 4, 3, [row, row, row, row].flat()));
  const result = await processor.process(path);
  // Each half is averaged by a triangle filter that reaches a little into the other.
  const wanted = expected([...left, ...right, ...left, ...right]);
  expect(result).toHaveLength(12);
  for (const [i, value] of wanted.entries())
    expect(Math.abs((result[i] as number) - value)).toBeLessThan(0.3);
});

test('steps that the file turns off are left out', async () => {
  const processor = await load({
    do_resize: false,
    do_rescale: false,
    do_normalize: false,
  });
  expect(processor.size).toBeUndefined();
  expect(rounded(await processor.process(await png(1, 2, 3, [1, 2, 3, 4, 5, 6])))).toEqual(
    rounded([1, 4, 2, 5, 3, 6]),
  );
});

test('a bad file or setting is named', async () => {
  await expect(loadImageProcessor(temporaryFolder())).rejects.toThrow(
    /preprocessor_config.json does not exist/,
  );
  await expect(load({ image_mean: [1] })).rejects.toThrow(
    refusal('CONFIG_INVALID', /preprocessor_config.json: field "image_mean" is \[1\]/),
  );
  await expect(load({ resample: 9 })).rejects.toThrow(refusal('CONFIG_INVALID', /"resample" is 9/));
  await expect(load({ size: { shortest_edge: 4 } })).rejects.toThrow(
    refusal('CONFIG_INVALID', /"size.height" is missing/),
  );
  await expect(load({ do_center_crop: true })).rejects.toThrow(
    refusal('CONFIG_INVALID', /"do_center_crop"/),
  );
  const processor = await load();
  await expect(processor.process('/nowhere.png')).rejects.toThrow(
    expect.objectContaining({ code: 'IMAGE_INVALID' }),
  );
  await expect(processor.process(Uint8Array.of(1, 2, 3))).rejects.toThrow(
    /An image of 3 bytes cannot be read/,
  );
});
