import type { Score } from '../score.js';

/** `0.419`: a cost relative to the dense model. */
export const formatCost = (cost: number): string => cost.toFixed(3);

/** `0.42`, for headlines. */
export const formatRoughly = (ratio: number): string => ratio.toFixed(ratio < 0.0995 ? 3 : 2);

/** `99.7 %` */
export const formatPercent = (share: number, digits = 1): string =>
  `${(100 * share).toFixed(digits).replace(/\.0+$/, '')} %`;

/** `91.75 %` for an accuracy, `3.307` for a loss. */
export function formatScore({ name, value }: Pick<Score, 'name' | 'value'>): string {
  return name === 'accuracy' ? `${(100 * value).toFixed(2)} %` : value.toFixed(3);
}

/** The difference of two scores, without its sign: `0.25 points` of an accuracy, `0.012` of a loss. */
export function formatDifference(name: Score['name'], difference: number): string {
  const size = Math.abs(difference);
  return name === 'accuracy' ? `${(100 * size).toFixed(2)} points` : size.toFixed(3);
}

/** `2,000` */
export const formatCount = (count: number): string =>
  Math.round(count)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ',');

/** `3.21 M` */
export function formatLarge(count: number): string {
  const units = ['', ' k', ' M', ' G', ' T'];
  const power = Math.min(Math.floor(Math.log10(Math.max(count, 1)) / 3), units.length - 1);
  return `${Number((count / 1000 ** power).toPrecision(3))}${units[power]}`;
}

/** `layers.3.ffn` as `layer 3`, `layers.0.attention.q` as `layer 0 q`; layers are counted from 0, as in checkpoints. */
export function siteLabel(site: string): string {
  const [, layer, rest] = /^layers\.(\d+)\.(?:attention\.)?(.+)$/.exec(site) ?? [];
  if (layer === undefined) return site;
  return rest === 'ffn' ? `layer ${layer}` : `layer ${layer} ${rest}`;
}

/** `a`, `a and b`, `a, b and c` */
export function listed(items: readonly string[]): string {
  if (items.length < 2) return items.join('');
  return `${items.slice(0, -1).join(', ')} and ${items.at(-1)}`;
}

/** A threshold or another setting: three significant digits, and no more than it has. */
export function formatSetting(value: number): string {
  return String(Number(value.toPrecision(3)));
}
