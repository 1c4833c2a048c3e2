import {
  backend_util,
  CropAndResize,
  type CropAndResizeAttrs,
  FlipLeftRight,
  type KernelConfig,
  kernel_impls,
  NonMaxSuppressionV3,
  type NonMaxSuppressionV3Attrs,
  NonMaxSuppressionV4,
  type NonMaxSuppressionV4Attrs,
  NonMaxSuppressionV5,
  type NonMaxSuppressionV5Attrs,
  ResizeBilinear,
  type ResizeBilinearAttrs,
  ResizeBilinearGrad,
  type ResizeBilinearGradAttrs,
  ResizeNearestNeighbor,
  type ResizeNearestNeighborAttrs,
  ResizeNearestNeighborGrad,
  type ResizeNearestNeighborGradAttrs,
  RotateWithOffset,
  type RotateWithOffsetAttrs,
  type TensorInfo,
  Transform,
  type TransformAttrs,
  util,
} from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { cudaKernel } from './config.js';
import { asFloat32, launchElements, type Tensors } from './run.js';

/** Height and width of the input, height and width of the output, channels. */
const SIZES = 'i*5';

const resizeBilinear = kernel('images', 'images_resize_bilinear', `p p ${SIZES} d d d l`);
const resizeBilinearGrad = kernel('images', 'images_resize_bilinear_grad', `p p ${SIZES} d d l`);
const resizeNearest = kernel('images', 'images_resize_nearest', `p p ${SIZES} d d d i l`);
const resizeNearestGrad = kernel('images', 'images_resize_nearest_grad', `p p ${SIZES} d d i l`);
const cropAndResize = kernel('images', 'images_crop_and_resize', `p p p p ${SIZES} i i f l`);
const flipLeftRight = kernel('images', 'images_flip_left_right', 'p p i i l');
const rotate = kernel('images', 'images_rotate', 'p p i i i d d d d f*4 l');
const transform = kernel('images', 'images_transform', `p p p ${SIZES} i i i f l`);

type ImageShape = readonly [batch: number, height: number, width: number, channels: number];

function imageShape(image: TensorInfo): ImageShape {
  return image.shape as [number, number, number, number];
}

/** Input pixels per output pixel along one axis. */
function scaleOf(size: number, newSize: number, alignCorners: boolean): number {
  return alignCorners && newSize > 1 ? (size - 1) / (newSize - 1) : size / newSize;
}

/** What a resize and its gradient share: sizes and scales. */
function resizeGeometry(
  images: TensorInfo,
  newHeight: number,
  newWidth: number,
  alignCorners: boolean,
): { sizes: readonly number[]; rowScale: number; colScale: number } {
  const [, height, width, channels] = imageShape(images);
  return {
    sizes: [height, width, newHeight, newWidth, channels],
    rowScale: scaleOf(height, newHeight, alignCorners),
    colScale: scaleOf(width, newWidth, alignCorners),
  };
}

function int32Vector(backend: CudaBackend, values: readonly number[]): TensorInfo {
  return backend.makeTensorInfo([values.length], 'int32', new Int32Array(values));
}

/** The codes of fill modes in images.cu. */
const FILL_MODES: readonly string[] = ['constant', 'reflect', 'wrap', 'nearest'];

/** Opacity of pixels that a rotation brings in, where the fill is a colour. */
const OPAQUE = 255;

/** Resizing, cropping, flipping, rotating and transforming of images; suppression of overlapping boxes. */
export const imageKernels: KernelConfig[] = [
  cudaKernel<Tensors<'images'>, ResizeBilinearAttrs>(
    ResizeBilinear,
    ({ inputs: { images }, attrs, backend }) => {
      const { alignCorners, halfPixelCenters, size } = attrs;
      const [batch, , , channels] = imageShape(images);
      const { sizes, rowScale, colScale } = resizeGeometry(images, ...size, alignCorners);
      const y = backend.output([batch, ...size, channels], 'float32');
      asFloat32(backend, images, (x) =>
        launchElements(backend, resizeBilinear, util.sizeFromShape(y.shape), [
          backend.pointer(x),
          y.pointer,
          sizes,
          rowScale,
          colScale,
          halfPixelCenters ? 0.5 : 0,
        ]),
      );
      return y;
    },
  ),

  cudaKernel<Tensors<'images' | 'dy'>, ResizeBilinearGradAttrs>(
    ResizeBilinearGrad,
    ({ inputs: { images, dy }, attrs, backend }) => {
      const [, newHeight, newWidth] = imageShape(dy);
      const geometry = resizeGeometry(images, newHeight, newWidth, attrs.alignCorners);
      const dx = backend.output(images.shape, 'float32');
      launchElements(backend, resizeBilinearGrad, util.sizeFromShape(dx.shape), [
        backend.pointer(dy),
        dx.pointer,
        geometry.sizes,
        geometry.rowScale,
        geometry.colScale,
      ]);
      return dx;
    },
  ),

  cudaKernel<Tensors<'images'>, ResizeNearestNeighborAttrs>(
    ResizeNearestNeighbor,
    ({ inputs: { images }, attrs, backend }) => {
      const { alignCorners, halfPixelCenters, size } = attrs;
      const [batch, , , channels] = imageShape(images);
      const { sizes, rowScale, colScale } = resizeGeometry(images, ...size, alignCorners);
      const y = backend.output([batch, ...size, channels], images.dtype);
      launchElements(backend, resizeNearest, util.sizeFromShape(y.shape), [
        backend.pointer(images),
        y.pointer,
        sizes,
        rowScale,
        colScale,
        halfPixelCenters ? 0.5 : 0,
        alignCorners ? 1 : 0,
      ]);
      return y;
    },
  ),

  cudaKernel<Tensors<'images' | 'dy'>, ResizeNearestNeighborGradAttrs>(
    ResizeNearestNeighborGrad,
    ({ inputs: { images, dy }, attrs, backend }) => {
      const [, newHeight, newWidth] = imageShape(dy);
      const geometry = resizeGeometry(images, newHeight, newWidth, attrs.alignCorners);
      const dx = backend.output(images.shape, 'float32');
      launchElements(backend, resizeNearestGrad, util.sizeFromShape(dx.shape), [
        backend.pointer(dy),
        dx.pointer,
        geometry.sizes,
        geometry.rowScale,
        geometry.colScale,
        attrs.alignCorners ? 1 : 0,
      ]);
      return dx;
    },
  ),

  cudaKernel<Tensors<'image' | 'boxes' | 'boxInd'>, CropAndResizeAttrs>(
    CropAndResize,
    ({ inputs: { image, boxes, boxInd }, attrs, backend }) => {
      const { cropSize, method, extrapolationValue } = attrs;
      const [batch, height, width, channels] = imageShape(image);
      const [cropHeight, cropWidth] = cropSize;
      const y = backend.output([boxes.shape[0] ?? 0, ...cropSize, channels], 'float32');
      asFloat32(backend, image, (x) =>
        launchElements(backend, cropAndResize, util.sizeFromShape(y.shape), [
          backend.pointer(x),
          backend.pointer(boxes),
          backend.pointer(boxInd),
          y.pointer,
          [height, width, cropHeight, cropWidth, channels],
          batch,
          method === 'bilinear' ? 1 : 0,
          extrapolationValue,
        ]),
      );
      return y;
    },
  ),

  cudaKernel<Tensors<'image'>>(FlipLeftRight, ({ inputs: { image }, backend }) => {
    const [, , width, channels] = imageShape(image);
    const y = backend.output(image.shape, 'float32');
    const args = [backend.pointer(image), y.pointer, width, channels];
    launchElements(backend, flipLeftRight, util.sizeFromShape(image.shape), args);
    return y;
  }),

  cudaKernel<Tensors<'image'>, RotateWithOffsetAttrs>(
    RotateWithOffset,
    ({ inputs: { image }, attrs, backend }) => {
      const { radians, fillValue, center } = attrs;
      const [, height, width, channels] = imageShape(image);
      const [centerX, centerY] = backend_util.getImageCenter(center, height, width);
      const y = backend.output(image.shape, 'float32');
      launchElements(backend, rotate, util.sizeFromShape(image.shape), [
        backend.pointer(image),
        y.pointer,
        height,
        width,
        channels,
        Math.sin(radians),
        Math.cos(radians),
        centerX,
        centerY,
        typeof fillValue === 'number'
          ? [fillValue, fillValue, fillValue, fillValue]
          : [...fillValue, OPAQUE],
      ]);
      return y;
    },
  ),

  cudaKernel<Tensors<'image' | 'transforms'>, TransformAttrs>(
    Transform,
    ({ inputs: { image, transforms }, attrs, backend }) => {
      const { interpolation, fillMode, fillValue, outputShape } = attrs;
      const [batch, height, width, channels] = imageShape(image);
      const [outHeight, outWidth] = outputShape ?? [height, width];
      const y = backend.output([batch, outHeight, outWidth, channels], 'float32');
      launchElements(backend, transform, util.sizeFromShape(y.shape), [
        backend.pointer(image),
        backend.pointer(transforms),
        y.pointer,
        [height, width, outHeight, outWidth, channels],
        transforms.shape[0] === 1 ? 0 : 8,
        interpolation === 'bilinear' ? 1 : 0,
        Math.max(0, FILL_MODES.indexOf(fillMode)),
        fillValue,
      ]);
      return y;
    },
  ),

  // Which boxes survive decides a shape, so it is found on the host, as in every tfjs backend.
  cudaKernel<Tensors<'boxes' | 'scores'>, NonMaxSuppressionV3Attrs>(
    NonMaxSuppressionV3,
    ({ inputs: { boxes, scores }, attrs, backend }) => {
      const { selectedIndices } = kernel_impls.nonMaxSuppressionV3Impl(
        backend.hostValues(boxes),
        backend.hostValues(scores),
        attrs.maxOutputSize,
        attrs.iouThreshold,
        attrs.scoreThreshold,
      );
      return int32Vector(backend, selectedIndices);
    },
  ),

  cudaKernel<Tensors<'boxes' | 'scores'>, NonMaxSuppressionV4Attrs>(
    NonMaxSuppressionV4,
    ({ inputs: { boxes, scores }, attrs, backend }) => {
      const { selectedIndices, validOutputs } = kernel_impls.nonMaxSuppressionV4Impl(
        backend.hostValues(boxes),
        backend.hostValues(scores),
        attrs.maxOutputSize,
        attrs.iouThreshold,
        attrs.scoreThreshold,
        attrs.padToMaxOutputSize,
      );
      return [
        int32Vector(backend, selectedIndices),
        backend.makeTensorInfo([], 'int32', new Int32Array([validOutputs ?? 0])),
      ];
    },
  ),

  cudaKernel<Tensors<'boxes' | 'scores'>, NonMaxSuppressionV5Attrs>(
    NonMaxSuppressionV5,
    ({ inputs: { boxes, scores }, attrs, backend }) => {
      const { selectedIndices, selectedScores = [] } = kernel_impls.nonMaxSuppressionV5Impl(
        backend.hostValues(boxes),
        backend.hostValues(scores),
        attrs.maxOutputSize,
        attrs.iouThreshold,
        attrs.scoreThreshold,
        attrs.softNmsSigma,
      );
      return [
        int32Vector(backend, selectedIndices),
        backend.makeTensorInfo(
          [selectedScores.length],
          'float32',
          new Float32Array(selectedScores),
        ),
      ];
    },
  ),
];
