import { join } from 'node:path';
import { D2DMoEError } from '@d2dmoe/core';
import sharp from 'sharp';
import { ConfigReader } from './config.js';
import { readJsonObject } from './files.js';

/** Images to what a vision model takes, as a checkpoint's preprocessor_config.json says. */
export interface ImageProcessor {
  /** Height and width of the result in pixels; undefined where images keep their own (`do_resize` false). */
  size: { height: number; width: number } | undefined;
  /**
   * One image: resized unless it has the size already, grey and transparent ones brought to RGB, rescaled, normalised.
   *
   * @param image A path, or an encoded image (PNG, JPEG, WebP, …) in memory.
   * @returns [3, height, width], row-major
   * @throws D2DMoEError `IMAGE_INVALID`
   */
  process(image: string | Uint8Array): Promise<Float32Array>;
}

/** PIL's filters, by the number in `resample`, as sharp calls them. */
const kernels: Record<number, 'nearest' | 'lanczos3' | 'linear' | 'cubic'> = {
  0: 'nearest',
  1: 'lanczos3',
  2: 'linear',
  3: 'cubic',
};

/**
 * Loads preprocessor_config.json.
 *
 * @throws D2DMoEError `FILE_MISSING`, `JSON_INVALID`, `CONFIG_INVALID`
 */
export async function loadImageProcessor(directory: string): Promise<ImageProcessor> {
  const file = 'preprocessor_config.json';
  const config = new ConfigReader(await readJsonObject(join(directory, file)), { file });
  const size = config.boolean('do_resize', true) ? readSize(config) : undefined;
  const kernel = kernels[config.number('resample', 2)];
  if (kernel === undefined) throw config.invalid('resample', '0, 1, 2 or 3');
  const factor = config.boolean('do_rescale', true)
    ? config.positive('rescale_factor', 1 / 255)
    : 1;
  const normalise = config.boolean('do_normalize', true);
  const mean = normalise ? config.triple('image_mean', [0.5, 0.5, 0.5]) : [0, 0, 0];
  const deviation = normalise ? config.triple('image_std', [0.5, 0.5, 0.5]) : [1, 1, 1];
  config.only('do_center_crop', false);

  return {
    size,
    async process(image) {
      const { data, pixels } = await decode(image, size, kernel);
      const result = new Float32Array(3 * pixels);
      for (let channel = 0; channel < 3; channel++) {
        const m = mean[channel] as number;
        const s = deviation[channel] as number;
        for (let i = 0; i < pixels; i++) {
          result[channel * pixels + i] = ((data[3 * i + channel] as number) * factor - m) / s;
        }
      }
      return result;
    },
  };
}

/** `size` is a number in old files, and an object of height and width in newer ones. */
function readSize(config: ConfigReader): { height: number; width: number } {
  if (config.isNumber('size')) {
    const side = config.count('size');
    return { height: side, width: side };
  }
  const size = config.object('size');
  if (size === undefined) throw config.invalid('size', 'a number or an object');
  return { height: size.count('height'), width: size.count('width') };
}

/** The image's 8-bit RGB values, interleaved. */
async function decode(
  image: string | Uint8Array,
  size: { height: number; width: number } | undefined,
  kernel: (typeof kernels)[number],
): Promise<{ data: Uint8Array; pixels: number }> {
  try {
    const pipeline = sharp(image);
    const { width, height } = await pipeline.metadata();
    pipeline.removeAlpha().toColourspace('srgb');
    if (size !== undefined && (width !== size.width || height !== size.height)) {
      // Shrinking while decoding is faster, but another filter than the one asked for.
      pipeline.resize({ ...size, fit: 'fill', kernel, fastShrinkOnLoad: false });
    }
    const { data, info } = await pipeline
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
    return { data, pixels: info.width * info.height };
  } catch (error) {
    const which = typeof image === 'string' ? image : `An image of ${image.length} bytes`;
    throw new D2DMoEError(
      'IMAGE_INVALID',
      `${which} cannot be read as an image: ${(error as Error).message}.`,
      { cause: error },
    );
  }
}
