import {
  backend_util,
  buffer,
  type KernelConfig,
  RaggedGather,
  RaggedRange,
  RaggedTensorToTensor,
  SparseFillEmptyRows,
  SparseReshape,
  SparseSegmentMean,
  SparseSegmentSum,
  StaticRegexReplace,
  StringNGrams,
  StringSplit,
  StringToHashBucketFast,
  type TensorInfo,
  type TypedArray,
  util,
} from '@tensorflow/tfjs-core';
import { shared } from '@tensorflow/tfjs-backend-cpu';
import type { CudaBackend } from '../backend.js';
import { cudaKernel } from './config.js';
import { at } from './layout.js';
import { stringsOf } from './rearrange.js';

// Ops whose output shapes depend on values, or whose values are strings: they are by nature on the host,
// where the implementations that tfjs's own backends share are used. Numbers that only the device has
// are waited for.

/** What the shared implementations take for the values of a tensor of any dtype. */
function valuesOf(backend: CudaBackend, t: TensorInfo): TypedArray {
  return backend.readSync(t.dataId) as TypedArray;
}

/** Strings, decoded, as tfjs's buffer of a string tensor has them. */
function stringBuffer(backend: CudaBackend, t: TensorInfo, shape: number[]) {
  return buffer(shape, 'string', backend_util.fromUint8ToStringArray(stringsOf(backend, t)));
}

function intBuffer(backend: CudaBackend, t: TensorInfo, shape: number[]) {
  return buffer(shape, 'int32', backend.hostValues(t) as Int32Array);
}

function stringTensor(backend: CudaBackend, shape: number[], values: unknown): TensorInfo {
  const encoded = backend_util.fromStringArrayToUint8(values as string[]);
  return backend.makeTensorInfo(shape, 'string', encoded);
}

/** GatherV2 of a string tensor. */
export function gatherOnHost(
  backend: CudaBackend,
  x: TensorInfo,
  indices: TensorInfo,
  info: backend_util.segment_util.GatherOpShapeInfo,
): TensorInfo {
  const { batchSize, outerSize, dimSize, sliceSize, outputShape } = info;
  const picks = util.sizeFromShape(indices.shape) / batchSize;
  const result = shared.gatherV2Impl(
    stringBuffer(backend, x, [batchSize, outerSize, dimSize, sliceSize]),
    // The implementation's type wants one dtype for both.
    intBuffer(backend, indices, [batchSize, picks]) as never,
    [batchSize, outerSize, picks, sliceSize],
  );
  return stringTensor(backend, outputShape, result.values);
}

/** GatherNd of a string tensor. */
export function gatherNdOnHost(
  backend: CudaBackend,
  params: TensorInfo,
  indices: TensorInfo,
): TensorInfo {
  const [shape, numSlices, sliceSize, strides] = backend_util.prepareAndValidate(params, indices);
  const result = shared.gatherNdImpl(
    backend.hostValues(indices),
    stringBuffer(backend, params, params.shape) as never,
    'string',
    numSlices,
    at(indices.shape, indices.shape.length - 1),
    sliceSize,
    strides,
    params.shape,
    util.sizeFromShape(params.shape),
  );
  return stringTensor(backend, shape, result.values);
}

/** SparseToDense of strings. */
export function sparseToDenseOnHost(
  backend: CudaBackend,
  indices: TensorInfo,
  values: TensorInfo,
  defaultValue: TensorInfo,
  shape: number[],
): TensorInfo {
  const { sliceRank, numUpdates, sliceSize, strides, outputSize } = backend_util.calculateShapes(
    values,
    indices,
    shape,
  );
  const result = shared.scatterImpl(
    intBuffer(backend, indices, indices.shape),
    stringBuffer(backend, values, values.shape),
    shape,
    outputSize,
    sliceSize,
    numUpdates,
    sliceRank,
    strides,
    util.decodeString(at(stringsOf(backend, defaultValue), 0)),
    false,
  );
  return stringTensor(backend, shape, result.values);
}

function expectRank(t: TensorInfo, rank: number, message: string): void {
  if (t.shape.length !== rank) throw new Error(`${message}: ${t.shape.join()}`);
}

function int32(values: ArrayLike<number>): Int32Array {
  return Int32Array.from(values);
}

interface SegmentInputs {
  data: TensorInfo;
  indices: TensorInfo;
  segmentIds: TensorInfo;
}

function sparseSegment(
  backend: CudaBackend,
  { data, indices, segmentIds }: SegmentInputs,
  isMean: boolean,
): TensorInfo {
  if (data.shape.length < 1) {
    throw new Error('Data should be at least 1 dimensional but received scalar');
  }
  expectRank(indices, 1, 'Indices should be a vector but received shape');
  expectRank(segmentIds, 1, 'Segment ids should be a vector but received shape');
  if (indices.shape[0] !== segmentIds.shape[0]) {
    throw new Error('segmentIds and indices should have same size.');
  }
  const [values, shape] = shared.sparseSegmentReductionImpl(
    valuesOf(backend, data),
    data.shape,
    data.dtype,
    valuesOf(backend, indices),
    valuesOf(backend, segmentIds),
    isMean,
  );
  return backend.makeTensorInfo(shape, data.dtype, values);
}

interface NGramAttrs {
  separator: string;
  nGramWidths: number[];
  leftPad: string;
  rightPad: string;
  padWidth: number;
  preserveShortSequences: boolean;
}

/** The sparse, ragged and string kernels. */
export const hostKernels: KernelConfig[] = [
  cudaKernel<
    { paramsNestedSplits: TensorInfo[]; paramsDenseValues: TensorInfo; indices: TensorInfo },
    { outputRaggedRank: number }
  >(RaggedGather, ({ inputs, attrs, backend }) => {
    const { paramsNestedSplits, paramsDenseValues, indices } = inputs;
    const { dtype } = paramsDenseValues;
    const [splits, values, shape] = shared.raggedGatherImpl(
      paramsNestedSplits.map((t) => valuesOf(backend, t)),
      paramsNestedSplits.map((t) => t.shape),
      valuesOf(backend, paramsDenseValues),
      paramsDenseValues.shape,
      dtype,
      valuesOf(backend, indices),
      indices.shape,
      attrs.outputRaggedRank,
    );
    return [
      ...splits.map((split) => backend.makeTensorInfo([split.length], 'int32', split)),
      backend.makeTensorInfo(shape, dtype, values),
    ];
  }),

  cudaKernel<{ starts: TensorInfo; limits: TensorInfo; deltas: TensorInfo }>(
    RaggedRange,
    ({ inputs: { starts, limits, deltas }, backend }) => {
      const [splits, values] = shared.raggedRangeImpl(
        valuesOf(backend, starts),
        starts.shape,
        starts.dtype,
        valuesOf(backend, limits),
        limits.shape,
        valuesOf(backend, deltas),
        deltas.shape,
      );
      return [
        backend.makeTensorInfo([splits.length], 'int32', splits),
        backend.makeTensorInfo([values.length], starts.dtype, values),
      ];
    },
  ),

  cudaKernel<
    {
      shape: TensorInfo;
      values: TensorInfo;
      defaultValue: TensorInfo;
      rowPartitionTensors: TensorInfo[];
    },
    { rowPartitionTypes: string[] }
  >(RaggedTensorToTensor, ({ inputs, attrs, backend }) => {
    const { shape, values, defaultValue, rowPartitionTensors } = inputs;
    const [outputShape, output] = shared.raggedTensorToTensorImpl(
      valuesOf(backend, shape),
      shape.shape,
      valuesOf(backend, values),
      values.shape,
      values.dtype,
      valuesOf(backend, defaultValue),
      defaultValue.shape,
      rowPartitionTensors.map((t) => valuesOf(backend, t)),
      rowPartitionTensors.map((t) => t.shape),
      attrs.rowPartitionTypes,
    );
    return backend.makeTensorInfo(outputShape, values.dtype, output);
  }),

  cudaKernel<{
    indices: TensorInfo;
    values: TensorInfo;
    denseShape: TensorInfo;
    defaultValue: TensorInfo;
  }>(SparseFillEmptyRows, ({ inputs, backend }) => {
    const { indices, values, denseShape, defaultValue } = inputs;
    expectRank(denseShape, 1, 'Dense shape must be a vector, saw');
    expectRank(indices, 2, 'Indices must be a matrix, saw');
    expectRank(values, 1, 'Values must be a vector, saw');
    expectRank(defaultValue, 0, 'Default value must be a scalar, saw');
    const [outIndices, shape, outValues, emptyRows, reverseIndexMap] =
      shared.sparseFillEmptyRowsImpl(
        valuesOf(backend, indices),
        indices.shape,
        indices.dtype,
        valuesOf(backend, values),
        values.dtype,
        valuesOf(backend, denseShape),
        valuesOf(backend, defaultValue)[0] as number,
      );
    return [
      backend.makeTensorInfo(shape, indices.dtype, outIndices),
      backend.makeTensorInfo([at(shape, 0)], values.dtype, outValues),
      backend.makeTensorInfo([emptyRows.length], 'bool', Uint8Array.from(emptyRows, Number)),
      backend.makeTensorInfo([reverseIndexMap.length], indices.dtype, int32(reverseIndexMap)),
    ];
  }),

  cudaKernel<{ inputIndices: TensorInfo; inputShape: TensorInfo; newShape: TensorInfo }>(
    SparseReshape,
    ({ inputs: { inputIndices, inputShape, newShape }, backend }) => {
      expectRank(inputIndices, 2, 'Input indices should be a matrix but received shape');
      expectRank(inputShape, 1, 'Input shape should be a vector but received shape');
      expectRank(newShape, 1, 'Target shape should be a vector but received shape');
      const [newIndices, indicesShape, outputShape] = shared.sparseReshapeImpl(
        valuesOf(backend, inputIndices),
        inputIndices.shape,
        inputIndices.dtype,
        Array.from(valuesOf(backend, inputShape)),
        Array.from(valuesOf(backend, newShape)),
      );
      return [
        backend.makeTensorInfo(indicesShape, inputIndices.dtype, newIndices),
        backend.makeTensorInfo([outputShape.length], newShape.dtype, int32(outputShape)),
      ];
    },
  ),

  cudaKernel<SegmentInputs>(SparseSegmentMean, ({ inputs, backend }) =>
    sparseSegment(backend, inputs, true),
  ),

  cudaKernel<SegmentInputs>(SparseSegmentSum, ({ inputs, backend }) =>
    sparseSegment(backend, inputs, false),
  ),

  cudaKernel<{ data: TensorInfo; dataSplits: TensorInfo }, NGramAttrs>(
    StringNGrams,
    ({ inputs: { data, dataSplits }, attrs, backend }) => {
      const [nGrams, splits] = shared.stringNGramsImpl(
        stringsOf(backend, data),
        backend.hostValues(dataSplits) as Int32Array,
        attrs.separator,
        attrs.nGramWidths,
        attrs.leftPad,
        attrs.rightPad,
        attrs.padWidth,
        attrs.preserveShortSequences,
      );
      return [
        backend.makeTensorInfo([nGrams.length], 'string', nGrams),
        backend.makeTensorInfo(dataSplits.shape, 'int32', splits),
      ];
    },
  ),

  cudaKernel<{ input: TensorInfo; delimiter: TensorInfo }, { skipEmpty: boolean }>(
    StringSplit,
    ({ inputs: { input, delimiter }, attrs, backend }) => {
      if (input.dtype !== 'string') throw new Error('Input must be of datatype string');
      expectRank(input, 1, 'Input must be a vector, got shape');
      expectRank(delimiter, 0, 'Delimiter must be a scalar, got shape');
      const [indices, values, shape] = shared.stringSplitImpl(
        stringsOf(backend, input),
        at(stringsOf(backend, delimiter), 0),
        attrs.skipEmpty,
      );
      return [
        backend.makeTensorInfo([values.length, 2], 'int32', indices),
        backend.makeTensorInfo([values.length], 'string', values),
        backend.makeTensorInfo([2], 'int32', int32(shape)),
      ];
    },
  ),

  cudaKernel<{ input: TensorInfo }, { numBuckets: number }>(
    StringToHashBucketFast,
    ({ inputs: { input }, attrs: { numBuckets }, backend }) => {
      if (input.dtype !== 'string') throw new Error('Input must be of datatype string');
      if (numBuckets <= 0) throw new Error('Number of buckets must be at least 1');
      const buckets = shared.stringToHashBucketFastImpl(stringsOf(backend, input), numBuckets);
      return backend.makeTensorInfo(input.shape, 'int32', buckets);
    },
  ),

  cudaKernel<{ x: TensorInfo }, { pattern: string; rewrite: string; replaceGlobal: boolean }>(
    StaticRegexReplace,
    ({ inputs: { x }, attrs, backend }) => {
      const values = backend_util.fromUint8ToStringArray(stringsOf(backend, x));
      const replaced = shared.staticRegexReplaceImpl(values, 'string', { ...attrs });
      return stringTensor(backend, x.shape, replaced);
    },
  ),
];
