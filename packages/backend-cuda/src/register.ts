import { type KernelConfig, registerKernel } from '@tensorflow/tfjs-core';
import { expertKernels } from './experts/index.js';
import { arrayKernels } from './kernels/arrays.js';
import { binaryKernels } from './kernels/binary.js';
import { castKernels } from './kernels/cast.js';
import { convolutionKernels } from './kernels/convolutions.js';
import { einsumKernels } from './kernels/einsum.js';
import { fillKernels } from './kernels/fill.js';
import { fourierKernels } from './kernels/fourier.js';
import { gatherKernels } from './kernels/gather.js';
import { hostKernels } from './kernels/host-ops.js';
import { imageKernels } from './kernels/images.js';
import { normalizationKernels } from './kernels/normalization.js';
import { poolingKernels } from './kernels/pooling.js';
import { randomKernels } from './kernels/random.js';
import { reductionKernels } from './kernels/reductions.js';
import { scanKernels } from './kernels/scan.js';
import { scatterKernels } from './kernels/scatter.js';
import { selectKernels } from './kernels/select.js';
import { sortKernels } from './kernels/sort.js';
import { trainingKernels } from './kernels/training/index.js';
import { unaryKernels } from './kernels/unary.js';
import { productKernels } from './products/kernels.js';

/** All kernels of the backend `cuda`, family by family. */
export const cudaKernels: readonly KernelConfig[] = [
  ...arrayKernels,
  ...binaryKernels,
  ...castKernels,
  ...convolutionKernels,
  ...einsumKernels,
  ...expertKernels,
  ...fillKernels,
  ...fourierKernels,
  ...gatherKernels,
  ...hostKernels,
  ...imageKernels,
  ...normalizationKernels,
  ...poolingKernels,
  ...randomKernels,
  ...reductionKernels,
  ...scanKernels,
  ...scatterKernels,
  ...selectKernels,
  ...sortKernels,
  ...trainingKernels,
  ...unaryKernels,
  ...productKernels,
];

let isRegistered = false;

/** Registers all kernels of the backend `cuda` with tfjs, once. */
export function registerCudaKernels(): void {
  if (isRegistered) return;
  isRegistered = true;
  for (const config of cudaKernels) registerKernel(config);
}
