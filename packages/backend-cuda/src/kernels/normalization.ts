import {
  FusedBatchNorm,
  type FusedBatchNormAttrs,
  type KernelConfig,
  LRN,
  type LRNAttrs,
  LRNGrad,
  type LRNGradAttrs,
  util,
} from '@tensorflow/tfjs-core';
import { kernel } from '../launch.js';
import { cudaKernel } from './config.js';
import { asFloat32, launchElements, withScratch, type Tensors } from './run.js';

const batch = kernel('normalization', 'normalization_batch', 'p p l p l p l p l f p l');
const localResponse = kernel('normalization', 'normalization_local_response', 'p p i i f f f l');
const localNorms = kernel('normalization', 'normalization_local_norms', 'p p i i f f l');
const localResponseGrad = kernel(
  'normalization',
  'normalization_local_response_grad',
  'p p p p p i i f f l',
);

/** Channels of a channel-last tensor. */
function channelsOf(shape: readonly number[]): number {
  return shape[shape.length - 1] ?? 1;
}

/** Batch normalization with given statistics; local response normalization and its gradient. */
export const normalizationKernels: KernelConfig[] = [
  cudaKernel<Tensors<'x' | 'scale' | 'offset' | 'mean' | 'variance'>, FusedBatchNormAttrs>(
    FusedBatchNorm,
    ({ inputs, attrs, backend }) => {
      const { x, mean, variance } = inputs;
      // tfjs leaves out what was not given, which its types do not say.
      const { offset, scale }: Partial<typeof inputs> = inputs;
      for (const [name, parameter] of Object.entries({ variance, offset, scale })) {
        util.assert(
          parameter === undefined ||
            parameter === null ||
            parameter.shape.length === mean.shape.length,
          () => `Batch normalization requires mean and ${name} to have equal ranks.`,
        );
      }
      const y = backend.output(x.shape, 'float32');
      asFloat32(backend, x, (x32) =>
        launchElements(backend, batch, util.sizeFromShape(x.shape), [
          backend.pointer(x32),
          backend.pointer(mean),
          util.sizeFromShape(mean.shape),
          backend.pointer(variance),
          util.sizeFromShape(variance.shape),
          offset ? backend.pointer(offset) : 0,
          offset ? util.sizeFromShape(offset.shape) : 0,
          scale ? backend.pointer(scale) : 0,
          scale ? util.sizeFromShape(scale.shape) : 0,
          attrs.varianceEpsilon ?? 0.001,
          y.pointer,
        ]),
      );
      return y;
    },
  ),

  cudaKernel<Tensors<'x'>, LRNAttrs>(LRN, ({ inputs: { x }, attrs, backend }) => {
    const { depthRadius, bias, alpha, beta } = attrs;
    const y = backend.output(x.shape, 'float32');
    asFloat32(backend, x, (x32) =>
      launchElements(backend, localResponse, util.sizeFromShape(x.shape), [
        backend.pointer(x32),
        y.pointer,
        channelsOf(x.shape),
        depthRadius,
        bias,
        alpha,
        beta,
      ]),
    );
    return y;
  }),

  cudaKernel<Tensors<'x' | 'y' | 'dy'>, LRNGradAttrs>(
    LRNGrad,
    ({ inputs: { x, y, dy }, attrs, backend }) => {
      const { depthRadius, bias, alpha, beta } = attrs;
      const channels = channelsOf(x.shape);
      const n = util.sizeFromShape(x.shape);
      const dx = backend.output(x.shape, 'float32');
      withScratch(backend, n * 4, (norms) => {
        const normArgs = [backend.pointer(x), norms, channels, depthRadius, bias, alpha];
        launchElements(backend, localNorms, n, normArgs);
        launchElements(backend, localResponseGrad, n, [
          backend.pointer(x),
          backend.pointer(y),
          backend.pointer(dy),
          norms,
          dx.pointer,
          channels,
          depthRadius,
          alpha,
          beta,
        ]);
      });
      return dx;
    },
  ),
];
