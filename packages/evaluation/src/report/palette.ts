/**
 * Colours by use, on white and on the dark ground. The figures carry the light ones as plain attributes, which every
 * renderer of SVG understands; a style sheet swaps them where a dark scheme is asked for.
 */
export const colours = {
  ink: { light: '#1a1d21', dark: '#e8eaed' },
  muted: { light: '#5b6470', dark: '#a3acb8' },
  faint: { light: '#d5d9df', dark: '#3a414b' },
  paper: { light: '#ffffff', dark: '#14171b' },
  accent: { light: '#0b57a4', dark: '#79b8ff' },
  /** A token's or patch's experts, over text and pictures. */
  heat: { light: '#c2410b', dark: '#ff9a5c' },
} as const;

/** How a baseline's line is drawn: colour, dashes and marker, of which any one is enough to tell it from the others. */
export interface SeriesStyle {
  colour: string;
  dash: string;
  symbol:
    | 'square'
    | 'triangle'
    | 'diamond'
    | 'star'
    | 'cross'
    | 'times'
    | 'wye'
    | 'asterisk'
    | 'hexagon';
}

const series: readonly (SeriesStyle & { dark: string })[] = [
  { colour: '#b4420f', dark: '#fb923c', dash: '7,3', symbol: 'square' },
  { colour: '#15703a', dark: '#4ade80', dash: '2,3', symbol: 'triangle' },
  { colour: '#7e22ce', dark: '#c99bff', dash: '10,3,2,3', symbol: 'diamond' },
  { colour: '#b0175b', dark: '#f783b7', dash: '4,2', symbol: 'star' },
  { colour: '#0d6b64', dark: '#2dd4bf', dash: '12,4', symbol: 'cross' },
  { colour: '#7a5200', dark: '#facc15', dash: '1,3', symbol: 'times' },
  { colour: '#464f5b', dark: '#b7c0cc', dash: '8,2,2,2,2,2', symbol: 'wye' },
  { colour: '#3730a3', dark: '#a5b4fc', dash: '5,5', symbol: 'asterisk' },
  { colour: '#9a1b1b', dark: '#ff8a8a', dash: '3,1,1,1', symbol: 'hexagon' },
];

/** The style of the baseline of a number; there are nine, then they begin anew. */
export function seriesStyle(number: number): SeriesStyle {
  return series[number % series.length] as SeriesStyle;
}

/** Style rules that swap the light colours of what matches `scope` for the dark ones. */
export function darkRules(scope: string): string {
  const pairs = [
    ...Object.values(colours).map(({ light, dark }) => [light, dark]),
    ...series.map(({ colour, dark }) => [colour, dark]),
  ];
  return pairs
    .flatMap(([light, dark]) => [
      `${scope} [stroke="${light}"]{stroke:${dark}}`,
      `${scope} [fill="${light}"]{fill:${dark}}`,
    ])
    .join('\n');
}
