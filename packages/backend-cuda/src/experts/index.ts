import { dynamicKernels } from './dynamic-k-experts.js';
import { packKernels } from './pack.js';
import { routedKernels } from './routed-experts.js';
import { selectionKernels } from './select.js';

/** The expert op: PackExperts, SelectExperts, DynamicKExperts; PackRouter and RoutedExperts, which fuse the router. */
export const expertKernels = [
  ...packKernels,
  ...selectionKernels,
  ...dynamicKernels,
  ...routedKernels,
];
