import type { KernelConfig } from '@tensorflow/tfjs-core';
import { adamKernels } from './adam.js';
import { attentionKernels } from './attention.js';
import { crossEntropyKernels } from './cross-entropy.js';
import { layerNormKernels } from './layer-norm.js';
import { linearKernels } from './linear.js';
import { reluGradKernels } from './relu-grad.js';
import { rotaryKernels } from './rotary.js';

/** What `@d2dmoe/kernels` runs in a training step, beside GELU and SiLU: fused forward and backward passes. */
export const trainingKernels: KernelConfig[] = [
  ...adamKernels,
  ...attentionKernels,
  ...crossEntropyKernels,
  ...layerNormKernels,
  ...linearKernels,
  ...reluGradKernels,
  ...rotaryKernels,
];
