import {
  backend_util,
  Conv2D,
  type Conv2DAttrs,
  Conv2DBackpropFilter,
  type Conv2DBackpropFilterAttrs,
  Conv2DBackpropInput,
  type Conv2DBackpropInputAttrs,
  Conv3D,
  type Conv3DAttrs,
  Conv3DBackpropFilterV2,
  type Conv3DBackpropFilterV2Attrs,
  Conv3DBackpropInputV2,
  type Conv3DBackpropInputV2Attrs,
  DepthwiseConv2dNative,
  type DepthwiseConv2dNativeAttrs,
  DepthwiseConv2dNativeBackpropFilter,
  type DepthwiseConv2dNativeBackpropFilterAttrs,
  DepthwiseConv2dNativeBackpropInput,
  type DepthwiseConv2dNativeBackpropInputAttrs,
  FusedConv2D,
  type FusedConv2DAttrs,
  type FusedConv2DInputs,
  FusedDepthwiseConv2D,
  type FusedDepthwiseConv2DAttrs,
  type FusedDepthwiseConv2DInputs,
  type KernelConfig,
  type TensorInfo,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { matMul } from '../products/mat-mul.js';
import type { Activation } from '../products/product.js';
import { slice } from './arrays.js';
import { cudaKernel } from './config.js';
import { asFloat32, launchElements, withScratch, type Tensors } from './run.js';
import {
  inPixels,
  outPixels,
  planeWindow,
  taps,
  volumeWindow,
  WINDOW,
  type Window,
  windowArgument,
} from './window.js';

const im2col = kernel('convolutions', 'convolutions_im2col', `p p ${WINDOW} l`);
const col2im = kernel('convolutions', 'convolutions_col2im', `p p ${WINDOW} l`);
const transpose = kernel('convolutions', 'convolutions_transpose', 'p p l i i');
const sumParts = kernel('convolutions', 'convolutions_sum_parts', 'p p i l');
const biasActivation = kernel(
  'convolutions',
  'convolutions_bias_activation',
  'p p i*4 p i*4 i*4 i f l',
);
const depthwise = kernel('convolutions', 'convolutions_depthwise', `p p p ${WINDOW} l`);
const depthwiseInput = kernel('convolutions', 'convolutions_depthwise_input', `p p p ${WINDOW} l`);
const depthwiseFilter = kernel(
  'convolutions',
  'convolutions_depthwise_filter',
  `p p p ${WINDOW} l`,
);

/** Share of the card's memory that the matrix of windows may take at once; more images are products of their own. */
const COLUMNS_SHARE = 1 / 16;

/** Whether every window is exactly one pixel, so that the input is the matrix of windows already. */
function windowsArePixels(w: Window): boolean {
  return (
    taps(w) === 1 &&
    w.strideDepth * w.strideHeight * w.strideWidth === 1 &&
    w.padDepth === 0 &&
    w.padHeight === 0 &&
    w.padWidth === 0 &&
    inPixels(w) === outPixels(w)
  );
}

/** Elements of one row of the matrix of windows. */
function rowLength(w: Window): number {
  return taps(w) * w.inChannels;
}

/** A run of images whose windows fit into scratch memory at once. */
interface Chunk {
  /** The window over these images alone. */
  readonly window: Window;
  readonly pixels: number;
  /** Bytes to the chunk's first element in the input and in the output. */
  readonly inOffset: number;
  readonly outOffset: number;
}

function chunksOf(backend: CudaBackend, w: Window): Chunk[] {
  const pixels = outPixels(w);
  const perImage = pixels * rowLength(w) * 4;
  const budget = backend.device.totalMemory * COLUMNS_SHARE;
  const size = Math.max(1, Math.min(w.batch, Math.floor(budget / perImage)));
  const chunks: Chunk[] = [];
  for (let first = 0; first < w.batch; first += size) {
    const batch = Math.min(size, w.batch - first);
    chunks.push({
      window: { ...w, batch },
      pixels: batch * pixels,
      inOffset: first * inPixels(w) * w.inChannels * 4,
      outOffset: first * pixels * w.outChannels * 4,
    });
  }
  return chunks;
}

/** Calls `use` for every chunk with scratch memory for the chunk's matrix of windows. */
function withColumns(
  backend: CudaBackend,
  w: Window,
  use: (chunk: Chunk, columns: number, index: number) => void,
): void {
  const chunks = chunksOf(backend, w);
  const largest = chunks[0];
  if (largest === undefined) return;
  withScratch(backend, largest.pixels * rowLength(w) * 4, (columns) => {
    chunks.forEach((chunk, index) => use(chunk, columns, index));
  });
}

/** Writes the windows of a chunk out as a matrix [pixels, rowLength]. */
function writeColumns(backend: CudaBackend, x: number, columns: number, chunk: Chunk): void {
  const { pixels, window } = chunk;
  const args = [x + chunk.inOffset, columns, windowArgument(window), pixels];
  backend.launch(im2col, backend.blocks(pixels, 8), [32, 8, 1], args);
}

/** What a product adds to its result: a bias per output channel and an activation. */
interface Epilogue {
  bias?: number;
  activation?: Activation;
  alpha?: number;
}

/** y = x * filter over channel-last memory. */
function forward(
  backend: CudaBackend,
  x: number,
  filter: number,
  y: number,
  w: Window,
  epilogue: Epilogue,
): void {
  const size = { n: w.outChannels, k: rowLength(w) };
  if (windowsArePixels(w)) {
    const m = w.batch * outPixels(w);
    matMul(backend, { a: x, b: filter, out: y, m, ...size, ...epilogue });
    return;
  }
  withColumns(backend, w, (chunk, columns) => {
    writeColumns(backend, x, columns, chunk);
    const out = y + chunk.outOffset;
    matMul(backend, { a: columns, b: filter, out, m: chunk.pixels, ...size, ...epilogue });
  });
}

/** The gradient of the filter, over channel-last memory. */
function backpropFilter(backend: CudaBackend, x: number, dy: number, dw: number, w: Window): void {
  const size = { m: rowLength(w), n: w.outChannels, transposeA: true };
  const elements = size.m * size.n;
  if (windowsArePixels(w)) {
    matMul(backend, { a: x, b: dy, out: dw, k: w.batch * outPixels(w), ...size });
    return;
  }
  const parts = chunksOf(backend, w).length;
  if (parts === 0) backend.memset(dw, elements * 4);
  const product = (a: number, chunk: Chunk, out: number) =>
    matMul(backend, { a, b: dy + chunk.outOffset, out, k: chunk.pixels, ...size });
  if (parts <= 1) {
    withColumns(backend, w, (chunk, columns) => {
      writeColumns(backend, x, columns, chunk);
      product(columns, chunk, dw);
    });
    return;
  }
  withScratch(backend, parts * elements * 4, (sums) => {
    withColumns(backend, w, (chunk, columns, index) => {
      writeColumns(backend, x, columns, chunk);
      product(columns, chunk, sums + index * elements * 4);
    });
    launchElements(backend, sumParts, elements, [sums, dw, parts]);
  });
}

/** The gradient of the input, over channel-last memory. */
function backpropInput(
  backend: CudaBackend,
  dy: number,
  filter: number,
  dx: number,
  w: Window,
): void {
  const size = { n: rowLength(w), k: w.outChannels, transposeB: true };
  if (windowsArePixels(w)) {
    matMul(backend, { a: dy, b: filter, out: dx, m: w.batch * outPixels(w), ...size });
    return;
  }
  withColumns(backend, w, (chunk, columns) => {
    const { window, pixels } = chunk;
    matMul(backend, { a: dy + chunk.outOffset, b: filter, out: columns, m: pixels, ...size });
    const n = window.batch * inPixels(window) * window.inChannels;
    launchElements(backend, col2im, n, [columns, dx + chunk.inOffset, windowArgument(window)]);
  });
}

/** [batch, rows, columns] -> [batch, columns, rows]. */
function transposeEach(
  backend: CudaBackend,
  from: number,
  to: number,
  batch: number,
  rows: number,
  columns: number,
): void {
  const tiles = batch * Math.ceil(rows / 32) * Math.ceil(columns / 32);
  const grid = Math.min(tiles, 2 ** 20);
  backend.launch(transpose, grid, [32, 8, 1], [from, to, batch, rows, columns]);
}

/** Calls `use` with an address where an input [batch, channels, pixels] lies channel-last. */
function readChannelsLast(
  backend: CudaBackend,
  isFirst: boolean,
  pointer: number,
  [batch, channels, pixels]: readonly [number, number, number],
  use: (pointer: number) => void,
): void {
  if (!isFirst) {
    use(pointer);
    return;
  }
  withScratch(backend, batch * channels * pixels * 4, (last) => {
    transposeEach(backend, pointer, last, batch, channels, pixels);
    use(last);
  });
}

/** Calls `use` with an address to write an output to channel-last; it becomes [batch, channels, pixels]. */
function writeChannelsLast(
  backend: CudaBackend,
  isFirst: boolean,
  pointer: number,
  [batch, channels, pixels]: readonly [number, number, number],
  use: (pointer: number) => void,
): void {
  if (!isFirst) {
    use(pointer);
    return;
  }
  withScratch(backend, batch * channels * pixels * 4, (last) => {
    use(last);
    transposeEach(backend, last, pointer, batch, pixels, channels);
  });
}

function inputSize(w: Window): [number, number, number] {
  return [w.batch, w.inChannels, inPixels(w)];
}

function outputSize(w: Window): [number, number, number] {
  return [w.batch, w.outChannels, outPixels(w)];
}

interface Shape2D {
  readonly info: backend_util.Conv2DInfo;
  readonly window: Window;
  readonly isFirst: boolean;
}

function shape2D(
  xShape: readonly number[],
  filterShape: readonly number[],
  attrs: Pick<Conv2DAttrs, 'strides' | 'pad' | 'dataFormat' | 'dimRoundingMode'>,
  dilations: number | [number, number],
  isDepthwise: boolean,
): Shape2D {
  const format = backend_util.convertConv2DDataFormat(attrs.dataFormat);
  const info = backend_util.computeConv2DInfo(
    xShape as [number, number, number, number],
    filterShape as [number, number, number, number],
    attrs.strides,
    dilations,
    attrs.pad,
    attrs.dimRoundingMode,
    isDepthwise,
    format,
  );
  return { info, window: planeWindow(info), isFirst: format === 'channelsFirst' };
}

function conv2D(
  backend: CudaBackend,
  x: TensorInfo,
  filter: TensorInfo,
  { info, window, isFirst }: Shape2D,
  epilogue: Epilogue,
): TensorInfo & { pointer: number } {
  const y = backend.output(info.outShape, 'float32');
  readChannelsLast(backend, isFirst, backend.pointer(x), inputSize(window), (from) =>
    writeChannelsLast(backend, isFirst, y.pointer, outputSize(window), (to) =>
      forward(backend, from, backend.pointer(filter), to, window, epilogue),
    ),
  );
  return y;
}

/** Strides of a tensor that is broadcast to four axes; one dimension lies along the channels. */
function broadcastStrides(shape: readonly number[], channelAxis: number): number[] {
  const strides = [0, 0, 0, 0];
  if (shape.length === 1) {
    strides[channelAxis] = shape[0] === 1 ? 0 : 1;
    return strides;
  }
  const own = util.sizeFromShape([...shape]) === 0 ? [] : [...shape];
  let stride = 1;
  for (let i = own.length - 1; i >= 0; i--) {
    const size = own[i] ?? 1;
    if (size !== 1) strides[4 - own.length + i] = stride;
    stride *= size;
  }
  return strides;
}

/** The codes of activations in convolutions.cu. */
const ACTIVATIONS: readonly string[] = [
  'linear',
  'relu',
  'relu6',
  'elu',
  'prelu',
  'leakyrelu',
  'sigmoid',
];

type FusedAttrs = Pick<FusedConv2DAttrs, 'activation' | 'leakyreluAlpha'>;
type FusedInputs = Pick<FusedConv2DInputs, 'bias' | 'preluActivationWeights'>;

/** y = activation(y + bias) in place. */
function addBiasAndActivate(
  backend: CudaBackend,
  y: TensorInfo & { pointer: number },
  { bias, preluActivationWeights: slopes }: Partial<FusedInputs>,
  { activation, leakyreluAlpha }: FusedAttrs,
  channelAxis: number,
): void {
  const code = ACTIVATIONS.indexOf(activation);
  if (code < 0) throw new Error(`A fused convolution has no activation ${activation}.`);
  if (!bias && code === 0) return;
  launchElements(backend, biasActivation, util.sizeFromShape(y.shape), [
    y.pointer,
    bias ? backend.pointer(bias) : 0,
    broadcastStrides(bias?.shape ?? [], channelAxis),
    slopes ? backend.pointer(slopes) : 0,
    broadcastStrides(slopes?.shape ?? [], channelAxis),
    y.shape,
    code,
    leakyreluAlpha ?? 0,
  ]);
}

function fusedConv2D(
  backend: CudaBackend,
  inputs: FusedConv2DInputs,
  attrs: FusedConv2DAttrs,
): TensorInfo {
  const { x, filter, bias } = inputs;
  const { activation } = attrs;
  const shape = shape2D(x.shape, filter.shape, attrs, attrs.dilations, false);
  const { outChannels } = shape.info;
  const biasIsPerChannel = !bias || (bias.shape.length === 1 && bias.shape[0] === outChannels);
  if (activation !== 'prelu' && biasIsPerChannel) {
    return conv2D(backend, x, filter, shape, {
      ...(bias && { bias: backend.pointer(bias) }),
      activation,
      alpha: attrs.leakyreluAlpha ?? 0,
    });
  }
  const y = conv2D(backend, x, filter, shape, {});
  addBiasAndActivate(backend, y, inputs, attrs, shape.isFirst ? 1 : 3);
  return y;
}

function depthwiseConv2D(
  backend: CudaBackend,
  x: TensorInfo,
  filter: TensorInfo,
  attrs: DepthwiseConv2dNativeAttrs,
): TensorInfo & { pointer: number } {
  const { info, window, isFirst } = shape2D(
    x.shape,
    filter.shape,
    { ...attrs, dataFormat: attrs.dataFormat ?? 'NHWC' },
    attrs.dilations ?? 1,
    true,
  );
  const y = backend.output(info.outShape, 'float32');
  readChannelsLast(backend, isFirst, backend.pointer(x), inputSize(window), (from) =>
    writeChannelsLast(backend, isFirst, y.pointer, outputSize(window), (to) =>
      launchElements(backend, depthwise, util.sizeFromShape(info.outShape), [
        from,
        backend.pointer(filter),
        to,
        windowArgument(window),
      ]),
    ),
  );
  return y;
}

/** The shape of a depthwise convolution's gradients, which tfjs has for channel-last images only. */
function depthwiseShape(
  xShape: readonly number[],
  filterShape: readonly number[],
  attrs: DepthwiseConv2dNativeBackpropFilterAttrs | DepthwiseConv2dNativeBackpropInputAttrs,
): Shape2D {
  const { strides, pad, dimRoundingMode, dilations } = attrs;
  const rounding = dimRoundingMode && { dimRoundingMode };
  const format = { strides, pad, dataFormat: 'NHWC' as const, ...rounding };
  return shape2D(xShape, filterShape, format, dilations, true);
}

function window3D(
  xShape: readonly number[],
  filterShape: readonly number[],
  { strides, pad }: Pick<Conv3DAttrs, 'strides' | 'pad'>,
  dilations: number | [number, number, number],
): { info: backend_util.Conv3DInfo; window: Window } {
  const info = backend_util.computeConv3DInfo(
    xShape as [number, number, number, number, number],
    filterShape as [number, number, number, number, number],
    strides,
    dilations,
    pad,
  );
  return { info, window: volumeWindow(info) };
}

/** Convolutions over images and volumes, their gradients and fused forms. */
export const convolutionKernels: KernelConfig[] = [
  cudaKernel<Tensors<'x' | 'filter'>, Conv2DAttrs>(
    Conv2D,
    ({ inputs: { x, filter }, attrs, backend }) =>
      conv2D(backend, x, filter, shape2D(x.shape, filter.shape, attrs, attrs.dilations, false), {}),
  ),

  cudaKernel<Tensors<'x' | 'dy'>, Conv2DBackpropFilterAttrs>(
    Conv2DBackpropFilter,
    ({ inputs: { x, dy }, attrs, backend }) => {
      const { window, isFirst } = shape2D(x.shape, attrs.filterShape, attrs, 1, false);
      const dw = backend.output(attrs.filterShape, 'float32');
      readChannelsLast(backend, isFirst, backend.pointer(x), inputSize(window), (input) =>
        readChannelsLast(backend, isFirst, backend.pointer(dy), outputSize(window), (output) =>
          backpropFilter(backend, input, output, dw.pointer, window),
        ),
      );
      return dw;
    },
  ),

  cudaKernel<Tensors<'dy' | 'filter'>, Conv2DBackpropInputAttrs>(
    Conv2DBackpropInput,
    ({ inputs: { dy, filter }, attrs, backend }) => {
      const { info, window, isFirst } = shape2D(attrs.inputShape, filter.shape, attrs, 1, false);
      const dx = backend.output(attrs.inputShape, 'float32');
      // A transposed convolution may be given more than its output's shape asks for, which tfjs ignores.
      const used = slice(backend, dy, [0, 0, 0, 0], info.outShape);
      readChannelsLast(backend, isFirst, backend.pointer(used), outputSize(window), (from) =>
        writeChannelsLast(backend, isFirst, dx.pointer, inputSize(window), (to) =>
          backpropInput(backend, from, backend.pointer(filter), to, window),
        ),
      );
      backend.disposeIntermediateTensorInfo(used);
      return dx;
    },
  ),

  cudaKernel<FusedConv2DInputs, FusedConv2DAttrs>(FusedConv2D, ({ inputs, attrs, backend }) =>
    fusedConv2D(backend, inputs, attrs),
  ),

  cudaKernel<Tensors<'x' | 'filter'>, DepthwiseConv2dNativeAttrs>(
    DepthwiseConv2dNative,
    ({ inputs: { x, filter }, attrs, backend }) => depthwiseConv2D(backend, x, filter, attrs),
  ),

  cudaKernel<Tensors<'x' | 'dy'>, DepthwiseConv2dNativeBackpropFilterAttrs>(
    DepthwiseConv2dNativeBackpropFilter,
    ({ inputs: { x, dy }, attrs, backend }) => {
      const { window } = depthwiseShape(x.shape, attrs.filterShape, attrs);
      const dw = backend.output(attrs.filterShape, 'float32');
      backend.launch(
        depthwiseFilter,
        [Math.ceil(window.outChannels / 32), taps(window), 1],
        [32, 32, 1],
        [
          backend.pointer(x),
          backend.pointer(dy),
          dw.pointer,
          windowArgument(window),
          window.batch * outPixels(window),
        ],
      );
      return dw;
    },
  ),

  cudaKernel<Tensors<'dy' | 'filter'>, DepthwiseConv2dNativeBackpropInputAttrs>(
    DepthwiseConv2dNativeBackpropInput,
    ({ inputs: { dy, filter }, attrs, backend }) => {
      const { window } = depthwiseShape(attrs.inputShape, filter.shape, attrs);
      const dx = backend.output(attrs.inputShape, 'float32');
      launchElements(backend, depthwiseInput, util.sizeFromShape(dx.shape), [
        backend.pointer(dy),
        backend.pointer(filter),
        dx.pointer,
        windowArgument(window),
      ]);
      return dx;
    },
  ),

  cudaKernel<FusedDepthwiseConv2DInputs, FusedDepthwiseConv2DAttrs>(
    FusedDepthwiseConv2D,
    ({ inputs, attrs, backend }) => {
      const y = depthwiseConv2D(backend, inputs.x, inputs.filter, attrs);
      addBiasAndActivate(backend, y, inputs, attrs, attrs.dataFormat === 'NCHW' ? 1 : 3);
      return y;
    },
  ),

  cudaKernel<Tensors<'x' | 'filter'>, Conv3DAttrs>(
    Conv3D,
    ({ inputs: { x, filter }, attrs, backend }) => {
      const { info, window } = window3D(x.shape, filter.shape, attrs, attrs.dilations);
      const y = backend.output(info.outShape, 'float32');
      // tf.conv3d takes integers too.
      asFloat32(backend, x, (x32) =>
        asFloat32(backend, filter, (filter32) =>
          forward(backend, backend.pointer(x32), backend.pointer(filter32), y.pointer, window, {}),
        ),
      );
      return y;
    },
  ),

  cudaKernel<Tensors<'x' | 'dy'>, Conv3DBackpropFilterV2Attrs>(
    Conv3DBackpropFilterV2,
    ({ inputs: { x, dy }, attrs, backend }) => {
      const { window } = window3D(x.shape, attrs.filterShape, attrs, 1);
      const dw = backend.output(attrs.filterShape, 'float32');
      backpropFilter(backend, backend.pointer(x), backend.pointer(dy), dw.pointer, window);
      return dw;
    },
  ),

  cudaKernel<Tensors<'dy' | 'filter'>, Conv3DBackpropInputV2Attrs>(
    Conv3DBackpropInputV2,
    ({ inputs: { dy, filter }, attrs, backend }) => {
      const { window } = window3D(attrs.inputShape, filter.shape, attrs, 1);
      const dx = backend.output(attrs.inputShape, 'float32');
      backpropInput(backend, backend.pointer(dy), backend.pointer(filter), dx.pointer, window);
      return dx;
    },
  ),
];
