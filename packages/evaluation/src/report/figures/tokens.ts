import { drawnFigure, element, type Figure, monospace } from '../figure.js';
import { formatPercent } from '../format.js';
import { printable } from '../html.js';
import { colours } from '../palette.js';
import type { TextSample } from '../types.js';

const width = 860;
const fontSize = 14;
/** Width of one character of a monospaced font. */
const advance = 0.61 * fontSize;
const lineHeight = 38;
const barHeight = 5;
const heat = colours.heat.light;

/**
 * Texts whose tokens are shaded by the share of experts that they execute. Below each token a bar as long as its
 * share of the greatest says the same without colour.
 */
export function tokensFigure(samples: readonly TextSample[]): Figure {
  const greatest = Math.max(...samples.flatMap(({ executed }) => executed));
  const content: Element[] = [];
  let y = 0;
  content.push(...scale(greatest));
  y += 40;
  for (const { tokens, executed, label, predicted } of samples) {
    let x = 0;
    const group = element('g', { class: 'sample' });
    if (label !== undefined && predicted !== undefined) {
      const answer =
        label === predicted ? `${label}, as predicted` : `${label}, predicted ${predicted}`;
      group.append(
        element(
          'text',
          { x: 0, y: y + 10, 'font-size': 11, fill: colours.muted.light, class: 'answer' },
          answer,
        ),
      );
      y += 18;
    }
    for (const [i, token] of tokens.entries()) {
      const text = visible(token);
      const share = executed[i] as number;
      const tokenWidth = Array.from(text).length * advance + 8;
      if (x > 0 && x + tokenWidth > width) {
        x = 0;
        y += lineHeight;
      }
      group.append(
        element(
          'g',
          { class: 'token', 'data-executed': share.toFixed(4) },
          element('title', {}, `${text}: ${formatPercent(share)} of the experts`),
          element('rect', {
            x,
            y,
            width: tokenWidth - 2,
            height: 23,
            rx: 3,
            fill: heat,
            'fill-opacity': (0.04 + (0.5 * share) / greatest).toFixed(3),
          }),
          element(
            'text',
            {
              x: x + 3,
              y: y + 16,
              'font-size': fontSize,
              'font-family': monospace,
              'xml:space': 'preserve',
              textLength: (tokenWidth - 8).toFixed(1),
              lengthAdjust: 'spacingAndGlyphs',
            },
            text,
          ),
          element('rect', {
            class: 'bar',
            x,
            y: y + 25,
            width: (((tokenWidth - 2) * share) / greatest).toFixed(2),
            height: barHeight,
            fill: heat,
          }),
        ),
      );
      x += tokenWidth;
    }
    content.push(group);
    y += lineHeight + 8;
  }
  return drawnFigure(
    {
      name: 'tokens',
      title: 'Experts executed, token by token',
      description: `Tokens of ${samples.length} texts, shaded by the share of experts that they execute, mean over layers; the greatest is ${formatPercent(greatest)}. The bar below a token is as long as its share of that.`,
    },
    { width, height: y },
    content,
  );
}

/** A legend of three shades. */
function scale(greatest: number): Element[] {
  return [0.25, 0.5, 1].flatMap((share, i) => {
    const x = 130 * i;
    return [
      element('rect', {
        x,
        y: 0,
        width: 26,
        height: 15,
        rx: 3,
        fill: heat,
        'fill-opacity': (0.04 + 0.5 * share).toFixed(3),
      }),
      element('rect', { x, y: 17, width: 26 * share, height: 4, fill: heat }),
      element(
        'text',
        { x: x + 34, y: 13, 'font-size': 11, fill: colours.muted.light },
        `${formatPercent(share * greatest)}${i === 2 ? ' of the experts' : ''}`,
      ),
    ];
  });
}

/** A token's text with its white space made visible, as it takes room of its own. */
function visible(token: string): string {
  const text = printable(token).replaceAll('\n', '⏎').replaceAll('\t', '⇥').replaceAll('\r', '');
  return text.trim() === '' ? text.replaceAll(' ', '␣') || '∅' : text;
}
