import { D2DMoEError } from '@d2dmoe/core';
import { expect, test } from 'vitest';
import { checkSelectionRule } from './selection-rule.js';
import type { SelectionRule } from './types.js';

test.each<SelectionRule>([
  { rule: 'threshold', value: 0 },
  { rule: 'threshold', value: 1 },
  { rule: 'topK', value: 1 },
  { rule: 'topK', value: 1000 },
  { rule: 'cumulativeShare', value: 0 },
  { rule: 'cumulativeShare', value: 1 },
])('accepts $rule of $value', (rule) => {
  expect(() => checkSelectionRule(rule)).not.toThrow();
});

test.each([
  { rule: 'threshold', value: -0.1 },
  { rule: 'threshold', value: 1.1 },
  { rule: 'threshold', value: Number.NaN },
  { rule: 'topK', value: 0 },
  { rule: 'topK', value: 1.5 },
  { rule: 'topK', value: Number.POSITIVE_INFINITY },
  { rule: 'cumulativeShare', value: 1.1 },
  { rule: 'cumulativeShare', value: -1 },
  { rule: 'bottomK', value: 1 },
])('refuses $rule of $value', (rule) => {
  let thrown: unknown;
  try {
    checkSelectionRule(rule as SelectionRule);
  } catch (error) {
    thrown = error;
  }
  expect(D2DMoEError.isInstance(thrown) && thrown.code).toBe('SELECTION_RULE_INVALID');
  expect(D2DMoEError.isInstance(thrown) && thrown.message).toContain(rule.rule);
});
