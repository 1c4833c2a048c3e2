import type { DataType, KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { backend_util, upcastType, util } from '@tensorflow/tfjs-core';
import { shared } from '@tensorflow/tfjs-backend-cpu';
import type { CudaBackend, Output } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { type Broadcast, broadcast } from './broadcast.js';
import { castAway, complexParts, requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';
import { PACK_THREADS, packBlocks } from './packs.js';

interface Binary {
  a: TensorInfo;
  b: TensorInfo;
}

const SIGNATURE = 'p p p l i i i*6 i*6 i*6';

function zip(name: string): Kernel {
  return kernel('elementwise', name, SIGNATURE);
}

/** A function of two elements: kernels by the operands' type, and the type that these write. */
interface BinaryOp {
  readonly f32: Kernel | undefined;
  readonly i32: Kernel | undefined;
  /** What the kernels write where it is not the operands' type. */
  readonly writes: DataType | undefined;
}

function arithmetic(name: string): BinaryOp {
  return { f32: zip(`binary_${name}_f32`), i32: zip(`binary_${name}_i32`), writes: undefined };
}

function onFloats(name: string): BinaryOp {
  return { f32: zip(`binary_${name}_f32`), i32: undefined, writes: undefined };
}

function comparison(name: string): BinaryOp {
  return { f32: zip(`compare_${name}_f32`), i32: zip(`compare_${name}_i32`), writes: 'bool' };
}

function launch(
  backend: CudaBackend,
  function_: Kernel,
  layout: Broadcast,
  a: number,
  b: number,
  out: Output,
  lanes = 4,
): TensorInfo {
  const { size, mode, rank, dims, stepsA, stepsB } = layout;
  const blocks = packBlocks(size, mode === 2 ? 1 : lanes);
  const args = [a, b, out.pointer, size, mode, rank, dims, stepsA, stepsB];
  backend.launch(function_, blocks, PACK_THREADS, args);
  return out;
}

/** Enqueues op(a, b) with broadcasting, for operands of one type that the op has a kernel for. */
function direct(backend: CudaBackend, op: BinaryOp, a: TensorInfo, b: TensorInfo): TensorInfo {
  const function_ = a.dtype === 'int32' ? op.i32 : op.f32;
  if (function_ === undefined) throw new Error(`No kernel takes ${a.dtype} operands.`);
  const layout = broadcast(a.shape, b.shape);
  const out = backend.output(layout.shape, op.writes ?? a.dtype);
  return launch(backend, function_, layout, backend.pointer(a), backend.pointer(b), out);
}

/** As {@link direct}, for any real types; bool counts as int32 meanwhile. */
function binary(
  backend: CudaBackend,
  op: BinaryOp,
  a: TensorInfo,
  b: TensorInfo,
  result: DataType,
): TensorInfo {
  const both = upcastType(a.dtype, b.dtype);
  let type: DataType = both === 'bool' ? 'int32' : both;
  if (type === 'int32' && op.i32 === undefined) type = 'float32';
  if (op.f32 === undefined) type = 'int32';
  const out = withType(backend, a, type, (left) =>
    withType(backend, b, type, (right) => direct(backend, op, left, right)),
  );
  return castAway(backend, out, result);
}

const add = arithmetic('add');
const sub = arithmetic('sub');
const mul = arithmetic('mul');
const hypot = onFloats('hypot');
const prelu = onFloats('prelu');
const eluGrad = onFloats('elugrad');
const addBf16 = zip('binary_add_bf16');
const addBf16Float = zip('binary_add_bf16_f32_bf16');
const addBf16FloatToFloat = zip('binary_add_bf16_f32_f32');
const mulBf16 = zip('binary_mul_bf16');
const LANES_BF16 = 8;

/** a + b or a · b where one of them exists in 16 bits alone, or nothing where neither does or no kernel fits. */
function inHalf(
  backend: CudaBackend,
  op: BinaryOp,
  a: TensorInfo,
  b: TensorInfo,
): TensorInfo | undefined {
  if (backend.precision !== 'bf16' || (op !== add && op !== mul)) return undefined;
  if (a.dtype !== 'float32' || b.dtype !== 'float32') return undefined;
  const halfA = backend.isOnly16(a);
  const halfB = backend.isOnly16(b);
  if (!halfA && !halfB) return undefined;
  if (halfA && halfB) {
    const layout = broadcast(a.shape, b.shape, LANES_BF16);
    const function_ = op === add ? addBf16 : mulBf16;
    const out = backend.output16(layout.shape);
    return launch(
      backend,
      function_,
      layout,
      backend.pointer16(a),
      backend.pointer16(b),
      out,
      LANES_BF16,
    );
  }
  if (op !== add) return undefined;
  const [half, full] = halfA ? [a, b] : [b, a];
  // A float32 operand that is spread over the result (a bias) does not make the result more precise than 16 bits.
  const spread = util.sizeFromShape(full.shape) < util.sizeFromShape(half.shape);
  const lanes = spread ? LANES_BF16 : 4;
  const layout = broadcast(half.shape, full.shape, lanes);
  const out = spread ? backend.output16(layout.shape) : backend.output(layout.shape, 'float32');
  const function_ = spread ? addBf16Float : addBf16FloatToFloat;
  return launch(
    backend,
    function_,
    layout,
    backend.pointer16(half),
    backend.pointer(full),
    out,
    lanes,
  );
}

/** Complex sums, differences and products, from those of their parts. */
function complexBinary(
  backend: CudaBackend,
  op: BinaryOp,
  a: TensorInfo,
  b: TensorInfo,
): TensorInfo {
  return withType(backend, a, 'complex64', (left) =>
    withType(backend, b, 'complex64', (right) => {
      const x = complexParts(backend, left);
      const y = complexParts(backend, right);
      const temporary: TensorInfo[] = [];
      const part = (function_: BinaryOp, p: TensorInfo, q: TensorInfo): TensorInfo => {
        const out = direct(backend, function_, p, q);
        temporary.push(out);
        return out;
      };
      const real =
        op === mul
          ? part(sub, part(mul, x.real, y.real), part(mul, x.imag, y.imag))
          : part(op, x.real, y.real);
      const imag =
        op === mul
          ? part(add, part(mul, x.real, y.imag), part(mul, x.imag, y.real))
          : part(op, x.imag, y.imag);
      const out = backend.complex(real, imag);
      for (const t of temporary) backend.disposeIntermediateTensorInfo(t);
      return out;
    }),
  );
}

/** Sums, differences and products, of complex numbers too. */
function algebraic(kernelName: string, op: BinaryOp): KernelConfig {
  return cudaKernel<Binary>(kernelName, ({ inputs: { a, b }, backend }) => {
    if (a.dtype === 'complex64' || b.dtype === 'complex64') return complexBinary(backend, op, a, b);
    requireReal(kernelName, a, b);
    return inHalf(backend, op, a, b) ?? binary(backend, op, a, b, a.dtype);
  });
}

function real(kernelName: string, op: BinaryOp, result?: DataType): KernelConfig {
  return cudaKernel<Binary>(kernelName, ({ inputs: { a, b }, backend }) => {
    requireReal(kernelName, a, b);
    return binary(backend, op, a, b, result ?? a.dtype);
  });
}

/** A comparison; strings are compared on the host, where they live. */
function compare(
  kernelName: string,
  name: string,
  ofStrings: typeof shared.equalImpl,
): KernelConfig {
  const op = comparison(name);
  return cudaKernel<Binary>(kernelName, ({ inputs: { a, b }, backend }) => {
    if (a.dtype === 'string' && b.dtype === 'string') {
      const [left, right] = [a, b].map((t) =>
        backend_util.fromUint8ToStringArray(backend.readSync(t.dataId) as Uint8Array[]),
      );
      // The function of tfjs compares what it is given; its type names numbers only.
      const [values, shape] = ofStrings(a.shape, b.shape, left as never, right as never, 'bool');
      return backend.makeTensorInfo(shape, 'bool', values);
    }
    requireReal(kernelName, a, b);
    return binary(backend, op, a, b, 'bool');
  });
}

function logical(kernelName: string, name: string): KernelConfig {
  const function_ = zip(`logical_${name}_bool`);
  return cudaKernel<Binary>(kernelName, ({ inputs: { a, b }, backend }) => {
    requireReal(kernelName, a, b);
    return withType(backend, a, 'bool', (left) =>
      withType(backend, b, 'bool', (right) => {
        const layout = broadcast(left.shape, right.shape);
        const out = backend.output(layout.shape, 'bool');
        return launch(
          backend,
          function_,
          layout,
          backend.pointer(left),
          backend.pointer(right),
          out,
        );
      }),
    );
  });
}

/** dy · f'(x), for operands in 16 bits too. */
function activationGrad(
  kernelName: string,
  name: string,
): (backend: CudaBackend, x: TensorInfo, dy: TensorInfo) => TensorInfo {
  const op = onFloats(name);
  const bf16 = zip(`binary_${name}_bf16`);
  return (backend, x, dy) => {
    requireReal(kernelName, x, dy);
    if (backend.precision !== 'bf16' || !backend.isOnly16(x) || !backend.isOnly16(dy)) {
      return binary(backend, op, x, dy, 'float32');
    }
    const layout = broadcast(x.shape, dy.shape, LANES_BF16);
    const out = backend.output16(layout.shape);
    return launch(
      backend,
      bf16,
      layout,
      backend.pointer16(x),
      backend.pointer16(dy),
      out,
      LANES_BF16,
    );
  };
}

const geluErfGrad = activationGrad('GeluGrad', 'gelugrad_erf');
const geluTanhGrad = activationGrad('GeluGrad', 'gelugrad_tanh');
const siluGrad = activationGrad('SiluGrad', 'silugrad');

/** The sum of one or more tensors of one shape. */
function addN(backend: CudaBackend, tensors: readonly TensorInfo[]): TensorInfo {
  requireReal('AddN', ...tensors);
  const [first, ...others] = tensors;
  if (first === undefined) throw new Error('AddN needs at least one tensor.');
  let sum = backend.alias(first, first.shape);
  for (const t of others) {
    const next = inHalf(backend, add, sum, t) ?? binary(backend, add, sum, t, first.dtype);
    backend.disposeIntermediateTensorInfo(sum);
    sum = next;
  }
  return sum;
}

/** Functions of two elements, with broadcasting. */
export const binaryKernels: KernelConfig[] = [
  algebraic('Add', add),
  algebraic('Sub', sub),
  algebraic('Multiply', mul),
  real('RealDiv', arithmetic('div')),
  real('FloorDiv', { ...arithmetic('floordiv'), writes: 'int32' }, 'int32'),
  real('Mod', arithmetic('mod')),
  real('Maximum', arithmetic('max')),
  real('Minimum', arithmetic('min')),
  real('Pow', arithmetic('pow')),
  real('SquaredDifference', arithmetic('sqdiff')),
  real('Atan2', onFloats('atan2')),
  real('BitwiseAnd', { f32: undefined, i32: zip('binary_and_i32'), writes: undefined }),
  compare('Equal', 'equal', shared.equalImpl),
  compare('NotEqual', 'notequal', shared.notEqualImpl),
  compare('Greater', 'greater', shared.greaterImpl),
  compare('GreaterEqual', 'greaterequal', shared.greaterEqualImpl),
  compare('Less', 'less', shared.lessImpl),
  compare('LessEqual', 'lessequal', shared.lessEqualImpl),
  logical('LogicalAnd', 'and'),
  logical('LogicalOr', 'or'),
  cudaKernel<{ x: TensorInfo; alpha: TensorInfo }>('Prelu', ({ inputs, backend }) => {
    requireReal('Prelu', inputs.x, inputs.alpha);
    return binary(backend, prelu, inputs.x, inputs.alpha, 'float32');
  }),
  cudaKernel<{ dy: TensorInfo; y: TensorInfo }>('EluGrad', ({ inputs, backend }) => {
    requireReal('EluGrad', inputs.dy, inputs.y);
    return binary(backend, eluGrad, inputs.dy, inputs.y, 'float32');
  }),
  cudaKernel<{ x: TensorInfo; dy: TensorInfo }, { approximation: 'erf' | 'tanh' }>(
    'GeluGrad',
    ({ inputs, attrs, backend }) =>
      (attrs.approximation === 'tanh' ? geluTanhGrad : geluErfGrad)(backend, inputs.x, inputs.dy),
  ),
  cudaKernel<{ x: TensorInfo; dy: TensorInfo }>('SiluGrad', ({ inputs, backend }) =>
    siluGrad(backend, inputs.x, inputs.dy),
  ),
  cudaKernel<{ x: TensorInfo }>('ComplexAbs', ({ inputs, backend }) => {
    const { real: re, imag: im } = complexParts(backend, inputs.x);
    return direct(backend, hypot, re, im);
  }),
  cudaKernel<TensorInfo[]>('AddN', ({ inputs, backend }) => addN(backend, Object.values(inputs))),
];
