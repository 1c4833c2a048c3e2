import { drawnFigure, element, type Figure } from '../figure.js';
import { formatPercent } from '../format.js';
import { colours } from '../palette.js';
import type { ImageSample } from '../types.js';

const side = 132;
const gap = 10;
const column = 2 * side + gap;
const columnGap = 22;
const perRow = 3;
const rowHeight = side + 52;
const heat = colours.heat.light;

/** Pictures, each beside a map of the experts that its patches execute, laid over it. */
export function patchesFigure(samples: readonly ImageSample[]): Figure {
  const greatest = Math.max(...samples.flatMap(({ executed }) => executed));
  const content = samples.map((sample, i) => {
    const x = (i % perRow) * (column + columnGap);
    const y = Math.floor(i / perRow) * rowHeight;
    return picture(sample, greatest, x, y);
  });
  return drawnFigure(
    {
      name: 'patches',
      title: 'Experts executed, patch by patch',
      description: `${samples.length} pictures, each beside a map of the share of experts that its patches execute, mean over layers: the larger and darker a patch’s square, the more. The greatest is ${formatPercent(greatest)}.`,
    },
    {
      width: perRow * column + (perRow - 1) * columnGap,
      height: Math.ceil(samples.length / perRow) * rowHeight,
    },
    content,
  );
}

function picture(
  { image, columns, rows, executed, label, predicted }: ImageSample,
  greatest: number,
  x: number,
  y: number,
): Element {
  const shown = (left: number, opacity: number) =>
    element('image', {
      href: image,
      x: left,
      y,
      width: side,
      height: side,
      preserveAspectRatio: 'none',
      opacity,
      style: 'image-rendering:pixelated',
    });
  const map = x + side + gap;
  const [width, height] = [side / columns, side / rows];
  const patches = executed.map((share, i) => {
    // The square's area says the same as its shade, for print without colour.
    const scale = Math.sqrt(share / greatest);
    const [w, h] = [width * scale, height * scale];
    const left = map + (i % columns) * width + (width - w) / 2;
    const top = y + Math.floor(i / columns) * height + (height - h) / 2;
    return element(
      'rect',
      {
        class: 'patch',
        x: left.toFixed(2),
        y: top.toFixed(2),
        width: w.toFixed(2),
        height: h.toFixed(2),
        fill: heat,
        'fill-opacity': (0.25 + (0.7 * share) / greatest).toFixed(3),
        'data-executed': share.toFixed(4),
      },
      element('title', {}, formatPercent(share)),
    );
  });
  const mean = executed.reduce((sum, share) => sum + share, 0) / executed.length;
  const answer =
    label === predicted ? `${label}, as predicted` : `${label}, predicted ${predicted}`;
  return element(
    'g',
    { class: 'sample' },
    shown(x, 1),
    shown(map, 0.3),
    ...patches,
    element('rect', {
      x: map,
      y,
      width: side,
      height: side,
      fill: 'none',
      stroke: colours.faint.light,
    }),
    element('text', { x, y: y + side + 17 }, answer),
    element(
      'text',
      { x, y: y + side + 33, 'font-size': 11, fill: colours.muted.light },
      `${formatPercent(mean)} of the experts, up to ${formatPercent(Math.max(...executed))}`,
    ),
  );
}
