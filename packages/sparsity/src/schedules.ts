import { D2DMoEError } from '@d2dmoe/core';

/** The weight α of the sparsity term at a training step; steps count from 0. */
export type Schedule = (step: number) => number;

/** α throughout. */
export function constant(alpha: number): Schedule {
  requireAlpha(alpha);
  return () => alpha;
}

/**
 * From 0 at step 0 in a straight line to α at step `steps`, then α.
 *
 * @throws D2DMoEError `SCHEDULE_INVALID` where α is not a number of at least 0, or `steps` is not above 0.
 */
export function linear(alpha: number, steps: number): Schedule {
  requireAlpha(alpha);
  if (!(steps > 0)) {
    throw new D2DMoEError(
      'SCHEDULE_INVALID',
      `A linear schedule has ${steps} steps; expected a number above 0.`,
    );
  }
  return (step) => alpha * Math.min(step / steps, 1);
}

/**
 * Linear over the first half of a run of `steps` steps, then constant ("linear warm-up" of Szatkowski et al. 2024).
 *
 * @throws D2DMoEError `SCHEDULE_INVALID`, as {@link linear}.
 */
export function linearWarmup(alpha: number, steps: number): Schedule {
  return linear(alpha, steps / 2);
}

/** The schedules by name, each from α and the run's number of steps. */
export const schedules = { constant, linear, linearWarmup } satisfies Record<
  string,
  (alpha: number, steps: number) => Schedule
>;

/** A name in {@link schedules}. */
export type ScheduleName = keyof typeof schedules;

function requireAlpha(alpha: number): void {
  if (!(alpha >= 0 && alpha < Infinity)) {
    throw new D2DMoEError(
      'SCHEDULE_INVALID',
      `The sparsity weight alpha is ${alpha}; expected a finite number of at least 0.`,
    );
  }
}
