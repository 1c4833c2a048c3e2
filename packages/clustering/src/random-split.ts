import type { Random } from '@d2dmoe/core';
import { type Split, splitFromAssignment } from './split.js';
import { expertCount } from './validation.js';

/** What {@link randomSplit} takes. */
export interface RandomSplitOptions {
  /** Hidden width, h. */
  count: number;
  /** Neurons per expert, e; divides h. */
  expertSize: number;
  /** Draws the permutation of the neurons. */
  random: Random;
}

/**
 * Divides neurons into experts by chance: the control that any informed split must beat.
 *
 * @throws D2DMoEError `EXPERT_SIZE_INVALID` where `expertSize` does not divide `count`.
 */
export function randomSplit({ count, expertSize, random }: RandomSplitOptions): Split {
  expertCount(count, expertSize);
  const expertOf = random.permutation(count).map((place) => Math.floor(place / expertSize));
  return splitFromAssignment(expertOf, expertSize);
}
