import type { DataType, KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { util } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { type Kernel, kernel } from '../launch.js';
import { castAway, requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';
import { PACK_THREADS, packBlocks } from './packs.js';

interface Unary {
  x: TensorInfo;
}

/** A function of one element: its kernel for float32, and for int32 where integers need one of their own. */
interface UnaryOp {
  readonly f32: Kernel;
  readonly i32: Kernel | undefined;
  /** The result's type where it is not that of the operand. */
  readonly result: DataType | undefined;
}

function unaryOp(
  name: string,
  { integer = false, result }: { integer?: boolean; result?: DataType } = {},
): UnaryOp {
  return {
    f32: kernel('elementwise', `unary_${name}_f32`, 'p p l f f'),
    i32: integer ? kernel('elementwise', `unary_${name}_i32`, 'p p l i i') : undefined,
    result,
  };
}

function launch(
  backend: CudaBackend,
  function_: Kernel,
  x: TensorInfo,
  dtype: DataType,
  a: number,
  b: number,
): TensorInfo {
  const size = util.sizeFromShape(x.shape);
  const out = backend.output(x.shape, dtype);
  const args = [backend.pointer(x), out.pointer, size, a, b];
  backend.launch(function_, packBlocks(size), PACK_THREADS, args);
  return out;
}

/** Enqueues y = op(x; a, b). Types without a kernel of their own go by int32, else by float32. */
function unary(backend: CudaBackend, op: UnaryOp, x: TensorInfo, a = 0, b = 0): TensorInfo {
  const result = op.result ?? x.dtype;
  if (x.dtype === 'float32') return launch(backend, op.f32, x, 'float32', a, b);
  if (op.i32 === undefined) {
    const y = withType(backend, x, 'float32', (x32) =>
      launch(backend, op.f32, x32, 'float32', a, b),
    );
    return castAway(backend, y, result);
  }
  const { i32 } = op;
  const y = withType(backend, x, 'int32', (integers) =>
    launch(backend, i32, integers, 'int32', toInt32(a), toInt32(b)),
  );
  return castAway(backend, y, result);
}

/** The nearest int32 towards zero. */
function toInt32(value: number): number {
  return Math.max(-2147483648, Math.min(2147483647, Math.trunc(value)));
}

function plain(kernelName: string, op: UnaryOp): KernelConfig {
  return cudaKernel<Unary>(kernelName, ({ inputs, backend }) => {
    requireReal(kernelName, inputs.x);
    return unary(backend, op, inputs.x);
  });
}

/** Rounding: integers stay as they are. */
function rounding(kernelName: string, op: UnaryOp): KernelConfig {
  return cudaKernel<Unary>(kernelName, ({ inputs, backend }) => {
    requireReal(kernelName, inputs.x);
    if (inputs.x.dtype !== 'float32') return backend.alias(inputs.x, inputs.x.shape);
    return unary(backend, op, inputs.x);
  });
}

/** A question about numbers, answered in bool. */
function test(kernelName: string, name: string): KernelConfig {
  const function_ = kernel('elementwise', `test_${name}_f32`, 'p p l f f');
  return cudaKernel<Unary>(kernelName, ({ inputs, backend }) => {
    requireReal(kernelName, inputs.x);
    return withType(backend, inputs.x, 'float32', (x) =>
      launch(backend, function_, x, 'bool', 0, 0),
    );
  });
}

/** An activation that also exists for operands in 16 bits. */
function activation(
  kernelName: string,
  op: UnaryOp,
  name: string,
): (backend: CudaBackend, x: TensorInfo) => TensorInfo {
  const bf16 = kernel('elementwise', `unary_${name}_bf16`, 'p p l f f');
  return (backend, x) => {
    requireReal(kernelName, x);
    if (backend.precision !== 'bf16' || !backend.isOnly16(x)) return unary(backend, op, x);
    const size = util.sizeFromShape(x.shape);
    const out = backend.output16(x.shape);
    const args = [backend.pointer16(x), out.pointer, size, 0, 0];
    backend.launch(bf16, packBlocks(size, 8), PACK_THREADS, args);
    return out;
  };
}

/** Which GELU: by the normal distribution's error function, or by its tanh approximation. */
export interface GeluAttrs {
  approximation: 'erf' | 'tanh';
}

const geluErf = activation('Gelu', unaryOp('gelu_erf', { result: 'float32' }), 'gelu_erf');
const geluTanh = activation('Gelu', unaryOp('gelu_tanh', { result: 'float32' }), 'gelu_tanh');
const relu = activation('Relu', unaryOp('relu', { integer: true }), 'relu');
const silu = activation('Silu', unaryOp('silu', { result: 'float32' }), 'silu');

const clip = unaryOp('clip', { integer: true });
const exp = unaryOp('exp');
const expOfInteger = kernel('elementwise', 'unary_exp_i32', 'p p l i i');
const leakyRelu = unaryOp('leakyrelu', { result: 'float32' });
const step = unaryOp('step');
const logicalNot = kernel('elementwise', 'test_not_bool', 'p p l f f');

/** Functions of one element of one tensor. */
export const unaryKernels: KernelConfig[] = [
  plain('Abs', unaryOp('abs', { integer: true })),
  plain('Acos', unaryOp('acos')),
  plain('Acosh', unaryOp('acosh')),
  plain('Asin', unaryOp('asin')),
  plain('Asinh', unaryOp('asinh')),
  plain('Atan', unaryOp('atan')),
  plain('Atanh', unaryOp('atanh')),
  rounding('Ceil', unaryOp('ceil')),
  plain('Cos', unaryOp('cos')),
  plain('Cosh', unaryOp('cosh')),
  plain('Elu', unaryOp('elu')),
  plain('Erf', unaryOp('erf')),
  cudaKernel<Unary>('Exp', ({ inputs: { x }, backend }) => {
    requireReal('Exp', x);
    return x.dtype === 'float32'
      ? unary(backend, exp, x)
      : withType(backend, x, 'int32', (integers) =>
          launch(backend, expOfInteger, integers, 'float32', 0, 0),
        );
  }),
  plain('Expm1', unaryOp('expm1')),
  rounding('Floor', unaryOp('floor')),
  plain('Log', unaryOp('log')),
  plain('Log1p', unaryOp('log1p')),
  plain('Neg', unaryOp('neg', { integer: true })),
  plain('Reciprocal', unaryOp('reciprocal')),
  cudaKernel<Unary>('Relu', ({ inputs, backend }) => relu(backend, inputs.x)),
  plain('Relu6', unaryOp('relu6', { integer: true })),
  rounding('Round', unaryOp('round')),
  plain('Rsqrt', unaryOp('rsqrt')),
  plain('Selu', unaryOp('selu')),
  plain('Sigmoid', unaryOp('sigmoid')),
  plain('Sign', unaryOp('sign', { integer: true })),
  plain('Sin', unaryOp('sin')),
  plain('Sinh', unaryOp('sinh')),
  plain('Softplus', unaryOp('softplus')),
  plain('Sqrt', unaryOp('sqrt')),
  plain('Square', unaryOp('square', { integer: true })),
  plain('Tan', unaryOp('tan')),
  plain('Tanh', unaryOp('tanh')),
  test('IsNan', 'isnan'),
  test('IsInf', 'isinf'),
  test('IsFinite', 'isfinite'),
  cudaKernel<Unary>('LogicalNot', ({ inputs, backend }) => {
    requireReal('LogicalNot', inputs.x);
    return withType(backend, inputs.x, 'bool', (x) => launch(backend, logicalNot, x, 'bool', 0, 0));
  }),
  cudaKernel<Unary, { clipValueMin: number; clipValueMax: number }>(
    'ClipByValue',
    ({ inputs, attrs, backend }) => {
      requireReal('ClipByValue', inputs.x);
      return unary(backend, clip, inputs.x, attrs.clipValueMin, attrs.clipValueMax);
    },
  ),
  cudaKernel<Unary, { alpha: number }>('LeakyRelu', ({ inputs, attrs, backend }) => {
    requireReal('LeakyRelu', inputs.x);
    return unary(backend, leakyRelu, inputs.x, attrs.alpha);
  }),
  cudaKernel<Unary, { alpha: number }>('Step', ({ inputs, attrs, backend }) => {
    requireReal('Step', inputs.x);
    return unary(backend, step, inputs.x, attrs.alpha);
  }),
  cudaKernel<Unary, GeluAttrs>('Gelu', ({ inputs, attrs, backend }) =>
    (attrs.approximation === 'tanh' ? geluTanh : geluErf)(backend, inputs.x),
  ),
  cudaKernel<Unary>('Silu', ({ inputs, backend }) => silu(backend, inputs.x)),
];
