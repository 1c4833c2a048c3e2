import * as Plot from '@observablehq/plot';
import { DOMParser } from 'linkedom';
import { printable } from './html.js';
import { colours, darkRules } from './palette.js';

/** A figure of the report. */
export interface Figure {
  /** File name without `.svg`, and the element's id in the report. */
  name: string;
  /** What it shows, in a few words. */
  title: string;
  /** What a reader who does not see it should know. */
  description: string;
  /** The `svg` element as text, without any style sheet. */
  svg: string;
}

// An XML document: unlike HTML's its attributes are escaped as SVG needs it.
const document = new DOMParser().parseFromString(
  '<svg />',
  'image/svg+xml',
  null,
) as unknown as Document;

/** Fonts of figures and report: the reader's own. */
export const fontFamily = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif';
export const monospace =
  'ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace';

/** Draws a plot. Its marks carry the light colours; `name` makes its ids unique in the report. */
export function plotFigure(
  { name, title, description }: Omit<Figure, 'svg'>,
  options: Plot.PlotOptions,
): Figure {
  const svg = Plot.plot({ document, ...options }) as SVGSVGElement;
  svg.querySelector('style')?.remove();
  svg.setAttribute('font-size', '12');
  return finish({ name, title, description }, svg);
}

/** An element of SVG with its attributes and what it holds, texts or elements. */
export function element(
  tag: string,
  attributes: Readonly<Record<string, string | number>> = {},
  ...content: readonly (Element | string)[]
): Element {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  for (const part of content) {
    made.append(typeof part === 'string' ? printable(part) : part);
  }
  return made;
}

/** A figure of elements of its own. */
export function drawnFigure(
  description: Omit<Figure, 'svg'>,
  { width, height }: { width: number; height: number },
  content: readonly Element[],
): Figure {
  const svg = element(
    'svg',
    { viewBox: `0 0 ${width} ${height}`, width, height, 'font-size': 12 },
    ...content,
  );
  return finish(description, svg);
}

function finish(figure: Omit<Figure, 'svg'>, svg: Element): Figure {
  const { name, title, description } = figure;
  const attributes = {
    xmlns: 'http://www.w3.org/2000/svg',
    class: 'figure',
    role: 'img',
    'font-family': fontFamily,
    fill: colours.ink.light,
    'aria-labelledby': `${name}-title`,
    'aria-describedby': `${name}-description`,
  };
  for (const [key, value] of Object.entries(attributes)) svg.setAttribute(key, value);
  svg.prepend(
    element('title', { id: `${name}-title` }, title),
    element('desc', { id: `${name}-description` }, description),
  );
  for (const painted of svg.querySelectorAll('[fill="currentColor"],[stroke="currentColor"]')) {
    for (const paint of ['fill', 'stroke']) {
      if (painted.getAttribute(paint) === 'currentColor') {
        painted.setAttribute(paint, colours.ink.light);
      }
    }
  }
  // A hundredth of a pixel is enough, and half the size.
  for (const placed of svg.querySelectorAll(
    '[d],[transform],[x1],[x],[width],[height],[cx],[y],[y1]',
  )) {
    for (const { name: key, value } of Array.from(placed.attributes)) {
      if (coordinates.has(key)) placed.setAttribute(key, rounded(value));
    }
  }
  return { ...figure, svg: svg.outerHTML };
}

const coordinates = new Set([
  'd',
  'transform',
  'x',
  'y',
  'x1',
  'x2',
  'y1',
  'y2',
  'width',
  'height',
  'cx',
  'cy',
]);

const rounded = (text: string) =>
  text.replace(/-?\d+\.\d{3,}(e-?\d+)?/g, (number) => String(Number(Number(number).toFixed(2))));

/** A figure as a file of its own: with its ground and the colours of the reader's scheme. */
export function standalone({ svg }: Figure): string {
  const style = `<style>
@media (prefers-color-scheme: dark) {
${darkRules('')}
svg[fill="${colours.ink.light}"]{fill:${colours.ink.dark}}
}
</style>`;
  const ground = `<rect width="100%" height="100%" fill="${colours.paper.light}" />`;
  const content = svg.indexOf('</desc>') + '</desc>'.length;
  return `<?xml version="1.0" encoding="UTF-8"?>
${svg.slice(0, content)}${style}${ground}${svg.slice(content)}
`;
}
