import type { backend_util } from '@tensorflow/tfjs-core';

/**
 * A window that slides over channel-last volumes, as `kernels/cuda/window.cuh` has it. A plane image is a volume of
 * depth 1.
 */
export interface Window {
  readonly batch: number;
  readonly inDepth: number;
  readonly inHeight: number;
  readonly inWidth: number;
  readonly inChannels: number;
  readonly outDepth: number;
  readonly outHeight: number;
  readonly outWidth: number;
  readonly outChannels: number;
  readonly filterDepth: number;
  readonly filterHeight: number;
  readonly filterWidth: number;
  readonly strideDepth: number;
  readonly strideHeight: number;
  readonly strideWidth: number;
  readonly dilationDepth: number;
  readonly dilationHeight: number;
  readonly dilationWidth: number;
  readonly padDepth: number;
  readonly padHeight: number;
  readonly padWidth: number;
}

/** The word of a {@link Window} in a kernel's parameters. */
export const WINDOW = 'i*21';

/** A window's fields in the order of the struct in window.cuh. */
export function windowArgument(w: Window): readonly number[] {
  return [
    w.batch,
    w.inDepth,
    w.inHeight,
    w.inWidth,
    w.inChannels,
    w.outDepth,
    w.outHeight,
    w.outWidth,
    w.outChannels,
    w.filterDepth,
    w.filterHeight,
    w.filterWidth,
    w.strideDepth,
    w.strideHeight,
    w.strideWidth,
    w.dilationDepth,
    w.dilationHeight,
    w.dilationWidth,
    w.padDepth,
    w.padHeight,
    w.padWidth,
  ];
}

/** The window of a convolution or pooling over images. */
export function planeWindow(info: backend_util.Conv2DInfo): Window {
  return {
    batch: info.batchSize,
    inDepth: 1,
    inHeight: info.inHeight,
    inWidth: info.inWidth,
    inChannels: info.inChannels,
    outDepth: 1,
    outHeight: info.outHeight,
    outWidth: info.outWidth,
    outChannels: info.outChannels,
    filterDepth: 1,
    filterHeight: info.filterHeight,
    filterWidth: info.filterWidth,
    strideDepth: 1,
    strideHeight: info.strideHeight,
    strideWidth: info.strideWidth,
    dilationDepth: 1,
    dilationHeight: info.dilationHeight,
    dilationWidth: info.dilationWidth,
    padDepth: 0,
    padHeight: info.padInfo.top,
    padWidth: info.padInfo.left,
  };
}

/** The window of a convolution or pooling over volumes. */
export function volumeWindow(info: backend_util.Conv3DInfo): Window {
  return {
    batch: info.batchSize,
    inDepth: info.inDepth,
    inHeight: info.inHeight,
    inWidth: info.inWidth,
    inChannels: info.inChannels,
    outDepth: info.outDepth,
    outHeight: info.outHeight,
    outWidth: info.outWidth,
    outChannels: info.outChannels,
    filterDepth: info.filterDepth,
    filterHeight: info.filterHeight,
    filterWidth: info.filterWidth,
    strideDepth: info.strideDepth,
    strideHeight: info.strideHeight,
    strideWidth: info.strideWidth,
    dilationDepth: info.dilationDepth,
    dilationHeight: info.dilationHeight,
    dilationWidth: info.dilationWidth,
    padDepth: info.padInfo.front,
    padHeight: info.padInfo.top,
    padWidth: info.padInfo.left,
  };
}

/** Output pixels of one image. */
export function outPixels(w: Window): number {
  return w.outDepth * w.outHeight * w.outWidth;
}

/** Input pixels of one image. */
export function inPixels(w: Window): number {
  return w.inDepth * w.inHeight * w.inWidth;
}

/** Elements of a filter under which one pixel lies: its size without channels. */
export function taps(w: Window): number {
  return w.filterDepth * w.filterHeight * w.filterWidth;
}
