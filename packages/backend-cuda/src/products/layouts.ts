import type { FullProduct } from './product.js';

/** How a product's operands lie: whether a, then b is transposed. */
export type Layout = 'nn' | 'nt' | 'tn' | 'tt';

export const layoutOf = ({ transposeA, transposeB }: FullProduct): Layout =>
  `${transposeA ? 't' : 'n'}${transposeB ? 't' : 'n'}`;

/** What `make` gives for each. */
export const byLayout = <T>(make: (layout: Layout) => T): Record<Layout, T> => ({
  nn: make('nn'),
  nt: make('nt'),
  tn: make('tn'),
  tt: make('tt'),
});
