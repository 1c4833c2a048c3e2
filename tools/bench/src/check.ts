import { Random } from '@d2dmoe/core';
import { gpt2Loss } from './gpt2-loss.js';
import type { Reference, References } from './reference.js';
import { type Results, trainingAdam, type Workload } from './workload.js';

/** The relative error in float32 that a product or an FFN may have, in each row. */
const tolerance = 1e-5;

/**
 * Holds a peer's results to float64.
 *
 * @throws Error that says what is wrong: such a peer is not timed
 */
export function check(workload: Workload, results: Results, references: References): void {
  if (workload.kind === 'trainingStep') {
    checkTrainingStep(results);
    return;
  }
  const expected = references.of(workload);
  for (const [name, reference] of Object.entries(expected)) {
    const error = worstRowError(results[name], reference);
    if (!(error <= tolerance)) {
      throw new Error(
        `A wrong result: a row of ${name} is off by ${error.toExponential(1)} of its norm; ${tolerance} is allowed.`,
      );
    }
  }
}

/** The greatest ‖actual − expected‖ / ‖expected‖ of a row; infinite where the lengths differ, NaN where a value is. */
export function worstRowError(
  actual: ArrayLike<number> | undefined,
  { values, columns }: Reference,
): number {
  if (actual?.length !== values.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let start = 0; start < values.length; start += columns) {
    let difference = 0;
    let norm = 0;
    for (let i = start; i < start + columns; i++) {
      difference += ((actual[i] as number) - (values[i] as number)) ** 2;
      norm += (values[i] as number) ** 2;
    }
    worst = Math.max(worst, difference === 0 ? 0 : Math.sqrt(difference / norm));
  }
  return worst;
}

/**
 * A step is right if its loss is that of its parameters, its gradient has the slope of the loss in a direction that
 * touches every parameter, and Adam has moved the parameters as this gradient says.
 */
function checkTrainingStep(results: Results): void {
  const before = tensors(results, 'before:');
  const gradients = tensors(results, 'gradient:');
  const after = tensors(results, 'after:');

  const loss = gpt2Loss(before);
  expectClose('the loss', results['loss']?.[0], loss, 1e-5 * loss);

  const random = new Random(6);
  const direction = new Map(
    Array.from(before, ([name, values]) => [name, values.map(() => random.normal())]),
  );
  const reach = 1e-5;
  const slope =
    (gpt2Loss(moved(before, direction, reach)) - gpt2Loss(moved(before, direction, -reach))) /
    (2 * reach);
  let along = 0;
  let square = 0;
  for (const [name, values] of direction) {
    const gradient = gradients.get(name);
    if (gradient?.length !== values.length) {
      throw new Error(`A wrong result: ${name} has no gradient of its size.`);
    }
    for (const [i, g] of gradient.entries()) {
      along += g * (values[i] as number);
      square += g * g;
    }
  }
  expectClose('the slope along a random direction', along, slope, 1e-4 * Math.sqrt(square));

  // At the first step both moments are unbiased to the gradient and its square.
  const { learningRate, epsilon } = trainingAdam;
  for (const [name, gradient] of gradients) {
    const old = before.get(name) as Float64Array;
    const values = gradient.map(
      (g, i) => (old[i] as number) - (learningRate * g) / (Math.abs(g) + epsilon),
    );
    const error = worstRowError(after.get(name), { values, columns: values.length });
    if (!(error <= tolerance)) {
      throw new Error(`A wrong result: Adam moved ${name} wrongly, by ${error.toExponential(1)}.`);
    }
  }
}

function tensors(results: Results, prefix: string): Map<string, Float64Array> {
  return new Map(
    Object.entries(results)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, values]) => [name.slice(prefix.length), Float64Array.from(values)]),
  );
}

function moved(
  from: Map<string, Float64Array>,
  direction: Map<string, Float64Array>,
  reach: number,
): Map<string, Float64Array> {
  return new Map(
    Array.from(from, ([name, values]) => {
      const along = direction.get(name) as Float64Array;
      return [name, values.map((value, i) => value + reach * (along[i] as number))];
    }),
  );
}

function expectClose(
  what: string,
  actual: number | undefined,
  expected: number,
  allowed: number,
): void {
  if (actual === undefined || !(Math.abs(actual - expected) <= allowed)) {
    throw new Error(`A wrong result: ${what} is ${actual}, but should be ${expected}.`);
  }
}
