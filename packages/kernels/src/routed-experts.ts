import { D2DMoEError } from '@d2dmoe/core';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from './dispatch.js';
import { type DynamicKExpertsAttrs, dynamicKExperts } from './dynamic-k-experts.js';
import { predictNorms } from './predict-norms.js';
import { selectExperts } from './select-experts.js';
import { checkSelectionRule } from './selection-rule.js';
import type { ExpertStorage, PackedExperts, RouterWeights, SelectionRule } from './types.js';

/**
 * The tfjs kernel that a backend registers to lay a router out for its own RoutedExperts kernel. Inputs: the tensors of
 * {@link RouterWeights}; attributes: {@link PackRouterAttrs}; output: a list of tensors of any form, which RoutedExperts
 * gets as its inputs `router0`, `router1`, ….
 */
export const PackRouter = 'PackRouter';

/** Attributes of the {@link PackRouter} kernel. */
export type PackRouterAttrs = {
  /** How the experts are stored that the router chooses among. */
  storage: ExpertStorage;
};

/**
 * The tfjs kernel that a backend registers to run router, selection and experts together, where that is faster. Inputs:
 * x float32 [N, dIn], `router0`, `router1`, … and `packed0`, `packed1`, …; attributes: those of DynamicKExperts and a
 * checked {@link SelectionRule}; output: float32 [N, dOut].
 */
export const RoutedExperts = 'RoutedExperts';

/** A router laid out beside the experts that it chooses among. Made by {@link packRouter}; owns its tensors. */
export interface PackedRouter {
  /** The backend in whose own layout the tensors are; absent where they are {@link RouterWeights}. */
  backend?: string;
  /** What the backend's kernel reads, by the names that it reads them by. */
  tensors: Readonly<Record<string, Tensor>>;
  /** Frees the tensors. */
  dispose(): void;
}

/**
 * Lays a router out as the current backend reads it together with experts. The result shares nothing with `router` and
 * outlives tf.tidy, until it is disposed.
 *
 * @param experts What it will choose among, packed on the current backend.
 */
export function packRouter(
  { hidden, output }: RouterWeights,
  { storage, backend: packedFor }: PackedExperts,
): PackedRouter {
  const isOwnLayout = packedFor !== undefined && hasKernel(PackRouter) && hasKernel(RoutedExperts);
  const tensors: Record<string, Tensor> = {};
  if (isOwnLayout) {
    const attrs: PackRouterAttrs = { storage };
    const packed = runKernel(PackRouter, { hidden, output }, attrs) as Tensor[];
    packed.forEach((tensor, i) => (tensors[`router${i}`] = tf.keep(tensor)));
  } else {
    tensors['hidden'] = tf.keep(tf.clone(hidden));
    tensors['output'] = tf.keep(tf.clone(output));
  }
  return {
    ...(isOwnLayout && { backend: packedFor }),
    tensors,
    dispose: () => tf.dispose(Object.values(tensors)),
  };
}

/**
 * A converted FFN: {@link predictNorms}, {@link selectExperts} and {@link dynamicKExperts} in one call, and in one launch
 * where the backend has that. Nothing is read back to the host.
 *
 * @param x [N, dIn]; N may be 0.
 * @param options.expectedDensity As for dynamicKExperts.
 * @returns [N, dOut]
 * @throws D2DMoEError `SELECTION_RULE_INVALID`, `SHAPE_MISMATCH`, `BACKEND_MISMATCH`
 */
export function routedExperts(
  x: Tensor2D,
  router: PackedRouter,
  rule: SelectionRule,
  experts: PackedExperts,
  options: { expectedDensity?: number } = {},
): Tensor2D {
  checkSelectionRule(rule);
  if (router.backend === undefined) {
    const weights = router.tensors as unknown as RouterWeights;
    return tf.tidy(() => {
      const selection = selectExperts(predictNorms(x, weights), rule);
      return dynamicKExperts(x, selection, experts, options);
    });
  }
  if (x.shape[1] !== experts.dIn) {
    throw new D2DMoEError(
      'SHAPE_MISMATCH',
      `The experts take rows of ${experts.dIn} numbers, but x has shape [${x.shape.join(', ')}].`,
    );
  }
  for (const [what, { backend }] of Object.entries({ router, experts })) {
    if (backend === tf.getBackend()) continue;
    throw new D2DMoEError(
      'BACKEND_MISMATCH',
      `The ${what} was packed for the ${backend} backend, but the current one is ${tf.getBackend()}: pack it again.`,
    );
  }
  const { activation, expertSize, dOut, storage } = experts;
  const attrs: DynamicKExpertsAttrs & SelectionRule = {
    activation,
    expertSize,
    dOut,
    storage,
    ...options,
    ...rule,
  };
  const inputs = { x, ...router.tensors, ...experts.tensors };
  return runKernel(RoutedExperts, inputs, attrs) as Tensor2D;
}
