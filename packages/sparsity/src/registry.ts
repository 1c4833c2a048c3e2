import { clampedPreactivation } from './clamped-preactivation.js';
import { clampedPreactivationHoyer } from './clamped-preactivation-hoyer.js';
import { l1 } from './l1.js';
import type { Regularizer } from './regularizer.js';
import { squareHoyer } from './square-hoyer.js';

/** A regularizer and what it is taken on: the neurons' activations (a GLU's act(gate·x)), or what enters act. */
export interface RegularizerEntry {
  /** What `term` takes. */
  on: 'activation' | 'preActivation';
  /** The term of the loss, before it is weighted. */
  term: Regularizer;
}

/** The regularizers by name. To add one: its own file, and a line here. */
export const regularizers = {
  l1: { on: 'activation', term: l1 },
  squareHoyer: { on: 'activation', term: squareHoyer },
  clampedPreactivation: { on: 'preActivation', term: clampedPreactivation },
  clampedPreactivationHoyer: { on: 'preActivation', term: clampedPreactivationHoyer },
} satisfies Record<string, RegularizerEntry>;

/** A name in {@link regularizers}. */
export type RegularizerName = keyof typeof regularizers;
