import { D2DMoEError } from '@d2dmoe/core';
import type { SelectionRule } from './types.js';

/**
 * Checks a rule's value: a threshold or a share must lie in [0, 1], topK must be an integer of at least 1 (more than
 * there are experts selects all).
 *
 * @throws D2DMoEError `SELECTION_RULE_INVALID`
 */
export function checkSelectionRule({ rule, value }: SelectionRule): void {
  switch (rule) {
    case 'threshold':
    case 'cumulativeShare':
      // Negated, so that NaN is refused too.
      if (!(value >= 0 && value <= 1)) {
        throw new D2DMoEError(
          'SELECTION_RULE_INVALID',
          `The selection rule ${rule} needs a value from 0 to 1, not ${value}.`,
        );
      }
      return;
    case 'topK':
      if (!(Number.isInteger(value) && value >= 1)) {
        throw new D2DMoEError(
          'SELECTION_RULE_INVALID',
          `The selection rule topK needs an integer of at least 1, not ${value}.`,
        );
      }
      return;
    default:
      throw new D2DMoEError(
        'SELECTION_RULE_INVALID',
        `The selection rule '${String(rule)}' is unknown: use threshold, topK or cumulativeShare.`,
      );
  }
}
