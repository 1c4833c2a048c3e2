import { siteCost } from '@d2dmoe/evaluation';
import type { Site } from '@d2dmoe/models';

/** Narrower routers cannot tell experts apart. */
const smallestWidth = 8;

/**
 * The hidden width of a site's router. Routers run for every token, so theirs must be small beside what they save: the
 * width that the settings give is an FFN's, and a projection gets the share of it that its own matrix has in the FFN's
 * multiply-adds, at least 8.
 *
 * @param ffn Any FFN of the same model.
 */
export function routerWidth(site: Site, ffn: Site, width: number): number {
  if (site.kind === 'feedForward') return width;
  const share = siteCost(site) / siteCost(ffn);
  return Math.min(width, Math.max(smallestWidth, Math.round(share * width)));
}
