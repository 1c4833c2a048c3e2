import {
  AvgPool,
  AvgPool3D,
  type AvgPool3DAttrs,
  AvgPool3DGrad,
  type AvgPool3DGradAttrs,
  type AvgPoolAttrs,
  AvgPoolGrad,
  type AvgPoolGradAttrs,
  backend_util,
  Dilation2D,
  type Dilation2DAttrs,
  Dilation2DBackpropFilter,
  Dilation2DBackpropInput,
  type KernelConfig,
  MaxPool,
  MaxPool3D,
  type MaxPool3DAttrs,
  MaxPool3DGrad,
  type MaxPool3DGradAttrs,
  type MaxPoolAttrs,
  MaxPoolGrad,
  type MaxPoolGradAttrs,
  MaxPoolWithArgmax,
  type MaxPoolWithArgmaxAttrs,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { cudaKernel } from './config.js';
import { launchElements, withScratch, type Tensors } from './run.js';
import {
  outPixels,
  planeWindow,
  taps,
  volumeWindow,
  WINDOW,
  type Window,
  windowArgument,
} from './window.js';

type Type = 'float32' | 'int32' | 'bool';

/** One kernel for each element type. */
function perType<T extends Type>(
  types: readonly T[],
  name: string,
  params: string,
): Record<T, Kernel> {
  const kernels = types.map((type) => [type, kernel('pooling', `${name}_${type}`, params)]);
  return Object.fromEntries(kernels) as Record<T, Kernel>;
}

const ALL = ['float32', 'int32', 'bool'] as const;
const NUMBERS = ['float32', 'int32'] as const;

const max = perType(ALL, 'pooling_max', `p p ${WINDOW} l`);
const maxTaps = perType(ALL, 'pooling_taps', `p p ${WINDOW} i l`);
const maxAt = perType(ALL, 'pooling_max_at', `p p p ${WINDOW} l l`);
const maxGrad = perType(NUMBERS, 'pooling_max_grad', `p p p ${WINDOW} l`);
const average = kernel('pooling', 'pooling_avg', `p p ${WINDOW} l`);
const averageGrad = kernel('pooling', 'pooling_avg_grad', `p p ${WINDOW} l`);
const dilation = perType(NUMBERS, 'pooling_dilation', `p p p p ${WINDOW} l`);
const dilationFilter = perType(NUMBERS, 'pooling_dilation_filter', 'p p p i l');

type Shape4 = [number, number, number, number];
type Shape5 = [number, number, number, number, number];

function pool2D(x: TensorInfo, attrs: MaxPoolAttrs | MaxPoolGradAttrs): backend_util.Conv2DInfo {
  const { filterSize, strides, pad, dimRoundingMode } = attrs;
  return backend_util.computePool2DInfo(
    x.shape as Shape4,
    filterSize,
    strides,
    1,
    pad,
    dimRoundingMode,
  );
}

function pool3D(
  x: TensorInfo,
  attrs: MaxPool3DGradAttrs | AvgPool3DGradAttrs,
): backend_util.Conv3DInfo {
  const { filterSize, strides, pad, dimRoundingMode } = attrs;
  return backend_util.computePool3DInfo(
    x.shape as Shape5,
    filterSize,
    strides,
    1,
    pad,
    dimRoundingMode,
  );
}

/** Whether pooling over these windows changes nothing. */
function isIdentity(w: Window, x: TensorInfo, outShape: readonly number[]): boolean {
  return taps(w) === 1 && util.arraysEqual(x.shape, [...outShape]);
}

function maxPool(
  backend: CudaBackend,
  x: TensorInfo,
  w: Window,
  outShape: readonly number[],
): TensorInfo {
  if (isIdentity(w, x, outShape)) return backend.alias(x, x.shape);
  const y = backend.output(outShape, x.dtype);
  const args = [backend.pointer(x), y.pointer, windowArgument(w)];
  launchElements(backend, max[x.dtype as Type], util.sizeFromShape(y.shape), args);
  return y;
}

function avgPool(
  backend: CudaBackend,
  x: TensorInfo,
  w: Window,
  outShape: readonly number[],
): TensorInfo {
  if (isIdentity(w, x, outShape)) return backend.alias(x, x.shape);
  const y = backend.output(outShape, 'float32');
  const args = [backend.pointer(x), y.pointer, windowArgument(w)];
  launchElements(backend, average, util.sizeFromShape(y.shape), args);
  return y;
}

function avgPoolGrad(backend: CudaBackend, dy: TensorInfo, x: TensorInfo, w: Window): TensorInfo {
  const dx = backend.output(x.shape, 'float32');
  const args = [backend.pointer(dy), dx.pointer, windowArgument(w)];
  launchElements(backend, averageGrad, util.sizeFromShape(x.shape), args);
  return dx;
}

/** `lastWins`: which of equal maxima gets the gradient. */
function maxPoolGrad(
  backend: CudaBackend,
  dy: TensorInfo,
  x: TensorInfo,
  w: Window,
  lastWins: boolean,
): TensorInfo {
  const dx = backend.output(x.shape, 'float32');
  const windows = util.sizeFromShape(dy.shape);
  const window = windowArgument(w);
  withScratch(backend, windows * 4, (at) => {
    const args = [backend.pointer(x), at, window, lastWins ? 1 : 0];
    launchElements(backend, maxTaps[x.dtype as Type], windows, args);
    const gradArgs = [backend.pointer(dy), at, dx.pointer, window];
    launchElements(backend, maxGrad.float32, util.sizeFromShape(x.shape), gradArgs);
  });
  return dx;
}

function dilationInfo(
  x: TensorInfo,
  filter: TensorInfo,
  { strides, pad, dilations }: Dilation2DAttrs,
): backend_util.Conv2DInfo {
  return backend_util.computeDilation2DInfo(
    x.shape as Shape4,
    filter.shape as [number, number, number],
    strides,
    pad,
    'NHWC',
    dilations,
  );
}

/** Calls `use` with the taps of a dilation's maxima in scratch memory. */
function withDilationTaps(
  backend: CudaBackend,
  x: TensorInfo,
  filter: TensorInfo,
  info: backend_util.Conv2DInfo,
  use: (taps: number) => void,
): void {
  const windows = util.sizeFromShape(info.outShape);
  withScratch(backend, windows * 4, (at) => {
    const window = windowArgument(planeWindow(info));
    const args = [backend.pointer(x), backend.pointer(filter), 0, at, window];
    launchElements(backend, dilation[x.dtype as 'float32' | 'int32'], windows, args);
    use(at);
  });
}

/** Pooling over images and volumes and its gradients; grey-scale dilation and its gradients. */
export const poolingKernels: KernelConfig[] = [
  cudaKernel<Tensors<'x'>, AvgPoolAttrs>(AvgPool, ({ inputs: { x }, attrs, backend }) => {
    const info = pool2D(x, attrs);
    return avgPool(backend, x, planeWindow(info), info.outShape);
  }),

  cudaKernel<Tensors<'dy' | 'input'>, AvgPoolGradAttrs>(
    AvgPoolGrad,
    ({ inputs: { dy, input }, attrs, backend }) =>
      avgPoolGrad(backend, dy, input, planeWindow(pool2D(input, attrs))),
  ),

  cudaKernel<Tensors<'x'>, AvgPool3DAttrs>(AvgPool3D, ({ inputs: { x }, attrs, backend }) => {
    const info = pool3D(x, attrs);
    return avgPool(backend, x, volumeWindow(info), info.outShape);
  }),

  cudaKernel<Tensors<'dy' | 'input'>, AvgPool3DGradAttrs>(
    AvgPool3DGrad,
    ({ inputs: { dy, input }, attrs, backend }) =>
      avgPoolGrad(backend, dy, input, volumeWindow(pool3D(input, attrs))),
  ),

  cudaKernel<Tensors<'x'>, MaxPoolAttrs>(MaxPool, ({ inputs: { x }, attrs, backend }) => {
    const info = pool2D(x, attrs);
    return maxPool(backend, x, planeWindow(info), info.outShape);
  }),

  cudaKernel<Tensors<'dy' | 'input' | 'output'>, MaxPoolGradAttrs>(
    MaxPoolGrad,
    ({ inputs: { dy, input }, attrs, backend }) =>
      maxPoolGrad(backend, dy, input, planeWindow(pool2D(input, attrs)), false),
  ),

  cudaKernel<Tensors<'x'>, MaxPool3DAttrs>(MaxPool3D, ({ inputs: { x }, attrs, backend }) => {
    const info = pool3D(x, attrs);
    return maxPool(backend, x, volumeWindow(info), info.outShape);
  }),

  cudaKernel<Tensors<'dy' | 'input' | 'output'>, MaxPool3DGradAttrs>(
    MaxPool3DGrad,
    ({ inputs: { dy, input }, attrs, backend }) =>
      maxPoolGrad(backend, dy, input, volumeWindow(pool3D(input, attrs)), true),
  ),

  cudaKernel<Tensors<'x'>, MaxPoolWithArgmaxAttrs>(
    MaxPoolWithArgmax,
    ({ inputs: { x }, attrs, backend }) => {
      const info = pool2D(x, attrs);
      const y = backend.output(info.outShape, x.dtype);
      const at = backend.output(info.outShape, 'int32');
      const imageSize = attrs.includeBatchInIndex
        ? 0
        : info.inHeight * info.inWidth * info.inChannels;
      launchElements(backend, maxAt[x.dtype as Type], util.sizeFromShape(y.shape), [
        backend.pointer(x),
        y.pointer,
        at.pointer,
        windowArgument(planeWindow(info)),
        imageSize,
      ]);
      return [y, at];
    },
  ),

  cudaKernel<Tensors<'x' | 'filter'>, Dilation2DAttrs>(
    Dilation2D,
    ({ inputs: { x, filter }, attrs, backend }) => {
      const info = dilationInfo(x, filter, attrs);
      const y = backend.output(info.outShape, x.dtype);
      const window = windowArgument(planeWindow(info));
      const args = [backend.pointer(x), backend.pointer(filter), y.pointer, 0, window];
      const elements = util.sizeFromShape(y.shape);
      launchElements(backend, dilation[x.dtype as 'float32' | 'int32'], elements, args);
      return y;
    },
  ),

  cudaKernel<Tensors<'x' | 'filter' | 'dy'>, Dilation2DAttrs>(
    Dilation2DBackpropInput,
    ({ inputs: { x, filter, dy }, attrs, backend }) => {
      const info = dilationInfo(x, filter, attrs);
      const dx = backend.output(x.shape, x.dtype);
      withDilationTaps(backend, x, filter, info, (at) => {
        const args = [backend.pointer(dy), at, dx.pointer, windowArgument(planeWindow(info))];
        const elements = util.sizeFromShape(x.shape);
        launchElements(backend, maxGrad[x.dtype as 'float32' | 'int32'], elements, args);
      });
      return dx;
    },
  ),

  cudaKernel<Tensors<'x' | 'filter' | 'dy'>, Dilation2DAttrs>(
    Dilation2DBackpropFilter,
    ({ inputs: { x, filter, dy }, attrs, backend }) => {
      const info = dilationInfo(x, filter, attrs);
      const window = planeWindow(info);
      const df = backend.output(filter.shape, filter.dtype);
      withDilationTaps(backend, x, filter, info, (at) =>
        backend.launch(
          dilationFilter[filter.dtype as 'float32' | 'int32'],
          [Math.ceil(window.inChannels / 32), taps(window), 1],
          [32, 32, 1],
          [
            backend.pointer(dy),
            at,
            df.pointer,
            window.inChannels,
            window.batch * outPixels(window),
          ],
        ),
      );
      return df;
    },
  ),
];
