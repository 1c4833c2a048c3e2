import type { Random } from '@d2dmoe/core';

/** The classes of the demo's images, in the order of their labels. */
export const shapeNames = [
  'checker',
  'cross',
  'diagonal',
  'disc',
  'ring',
  'square',
  'stripes',
  'triangle',
] as const;

type ShapeName = (typeof shapeNames)[number];

/** A shape around the origin, about one unit in radius, and by how much it is turned either way (radians). */
interface Shape {
  turn: number;
  covers(x: number, y: number): boolean;
}

/** Width of a stripe or of a checker's field. */
const band = 0.36;
const isEven = (x: number) => Math.floor(x / band + 0.5) % 2 === 0;
const inSquare = (x: number, y: number) => Math.max(Math.abs(x), Math.abs(y)) < 0.9;

// Stripes and diagonals differ by their direction alone, so they turn little; the others turn as far as they change.
const shapes: Record<ShapeName, Shape> = {
  checker: { turn: 0.2, covers: (x, y) => inSquare(x, y) && isEven(x) === isEven(y) },
  cross: {
    turn: Math.PI / 4,
    covers: (x, y) =>
      Math.min(Math.abs(x), Math.abs(y)) < 0.26 && Math.max(Math.abs(x), Math.abs(y)) < 1,
  },
  diagonal: {
    turn: 0.2,
    covers: (x, y) => inSquare(x, y) && isEven((x + y) * Math.SQRT1_2),
  },
  disc: { turn: 0, covers: (x, y) => Math.hypot(x, y) < 0.95 },
  ring: { turn: 0, covers: (x, y) => Math.hypot(x, y) < 1 && Math.hypot(x, y) > 0.5 },
  square: { turn: 0.2, covers: (x, y) => Math.max(Math.abs(x), Math.abs(y)) < 0.85 },
  stripes: { turn: 0.2, covers: (x, y) => inSquare(x, y) && isEven(y) },
  triangle: { turn: Math.PI, covers: (x, y) => y > -0.5 && y + Math.sqrt(3) * Math.abs(x) < 1 },
};

/** Standard deviation of the noise on each colour value. */
const noise = 0.12;
/** Samples along each side of a pixel. */
const samples = 4;

/** Labelled images. */
export interface ShapeImages {
  /** [count, 3, size, size], red, green and blue from −1 to 1. */
  pixels: Float32Array;
  /** [count], indices into {@link shapeNames}. */
  labels: Uint8Array;
}

/**
 * Draws small labelled images: one light shape each, of random colour, place, size and rotation, on a dark background,
 * and noise over both. The classes are equally frequent (to one image) and in random order. The same `random` draws the
 * same images.
 *
 * With 8,000 of these images, a ViT of two layers (dModel 64, patches of 4 × 4) passes 90 % test accuracy within 400
 * steps of 64 images and 97 % within 750.
 *
 * @param options.size Width and height in pixels; 16 by default.
 */
export function drawShapes(options: { count: number; size?: number; random: Random }): ShapeImages {
  const { count, size = 16, random } = options;
  const labels = Uint8Array.from(random.permutation(count), (i) => i % shapeNames.length);
  const pixels = new Float32Array(count * 3 * size * size);
  labels.forEach((label, i) => {
    const image = pixels.subarray(i * 3 * size * size, (i + 1) * 3 * size * size);
    drawShape(shapes[shapeNames[label] as ShapeName], image, size, random);
  });
  return { pixels, labels };
}

function drawShape(shape: Shape, image: Float32Array, size: number, random: Random): void {
  const within = (low: number, high: number) => low + (high - low) * random.uniform();
  const radius = within(0.36, 0.46) * size;
  const centreX = within(radius, size - radius);
  const centreY = within(radius, size - radius);
  const angle = within(-shape.turn, shape.turn);
  const flip = random.integer(2) === 0 ? -1 : 1;
  const [background, colour] = drawColours(random);
  const cos = Math.cos(angle) / radius;
  const sin = Math.sin(angle) / radius;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      let covered = 0;
      for (let sample = 0; sample < samples * samples; sample++) {
        const x = flip * (column + ((sample % samples) + 0.5) / samples - centreX);
        const y = row + (Math.floor(sample / samples) + 0.5) / samples - centreY;
        if (shape.covers(cos * x + sin * y, cos * y - sin * x)) covered += 1;
      }
      const share = covered / (samples * samples);
      for (let channel = 0; channel < 3; channel++) {
        const from = background[channel] as number;
        const to = colour[channel] as number;
        const value = from + (to - from) * share + noise * random.normal();
        image[(channel * size + row) * size + column] = Math.min(1, Math.max(-1, value));
      }
    }
  }
}

/** A dark and a light colour. */
function drawColours(random: Random): [number[], number[]] {
  const draw = (low: number, high: number) =>
    [0, 1, 2].map(() => low + (high - low) * random.uniform());
  return [draw(-1, -0.1), draw(0, 1)];
}
