import type { Site } from '@d2dmoe/models';
import { expect, test } from 'vitest';
import { routerWidth } from './router-width.js';

const site = (role: Site['role'], dIn: number, dOut: number, hidden: number): Site => ({
  name: `layers.0.${role}`,
  kind: role === 'ffn' ? 'feedForward' : 'projection',
  role,
  layer: 0,
  dIn,
  dOut,
  hidden,
  gated: false,
});

const ffn = site('ffn', 768, 768, 3072);

test('an FFN’s router has the width that was set, a projection’s its share of the cost', () => {
  expect(routerWidth(ffn, ffn, 128)).toBe(128);
  // 768² of 2 · 768 · 3072 is an eighth.
  expect(routerWidth(site('q', 768, 768, 384), ffn, 128)).toBe(16);
  const gated = { ...ffn, gated: true };
  expect(routerWidth(site('q', 768, 768, 384), gated, 128)).toBe(11);
});

test('at least 8, but no more than an FFN’s', () => {
  expect(routerWidth(site('k', 768, 64, 64), ffn, 128)).toBe(8);
  expect(routerWidth(site('k', 768, 64, 64), ffn, 4)).toBe(4);
});
