import { dynamicKernels } from './dynamic-k-experts.js';
import { packKernels } from './pack.js';
import { routedKernels } from './routed-experts.js';
import { selectionKernels } from './select.js';

/**
 * The expert op: PackExperts, SelectExperts, DynamicKExperts; PackRouter and RoutedExperts, which fuse the router. Not
 * among the backend's registered kernels until it has been measured on a card; until then the composed op runs.
 */
export const expertKernels = [
  ...packKernels,
  ...selectionKernels,
  ...dynamicKernels,
  ...routedKernels,
];
