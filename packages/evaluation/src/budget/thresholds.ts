import type { SelectionRule } from '@d2dmoe/kernels';
import type { Site, Thresholds } from '@d2dmoe/models';

/** Thresholds as the rule that `dynamicSubstitute` and `evaluateRule` take. */
export function thresholdRule(
  thresholds: Thresholds,
): SelectionRule | ((site: Site) => SelectionRule) {
  if (typeof thresholds === 'number') return { rule: 'threshold', value: thresholds };
  // A site that is not named runs all its experts.
  return (site) => ({ rule: 'threshold', value: thresholds[site.name] ?? 0 });
}

/** The thresholds a share `t` of the way from one setting to the next, site by site. */
export function between(from: Thresholds, to: Thresholds, t: number): Thresholds {
  if (typeof from === 'number' && typeof to === 'number') return from + t * (to - from);
  const names = Object.keys(typeof from === 'number' ? to : from);
  const at = (thresholds: Thresholds, name: string) =>
    typeof thresholds === 'number' ? thresholds : (thresholds[name] ?? 0);
  return Object.fromEntries(
    names.map((name) => [name, at(from, name) + t * (at(to, name) - at(from, name))]),
  );
}
