import { D2DMoEError } from '@d2dmoe/core';
import { DTYPE_BYTES, type Dtype } from './dtypes.js';
import { bfloat16ToFloat32, float16ToFloat32 } from './half.js';

/** A tensor's raw bytes as a typed array of its elements (F16, BF16: their bits), without a copy where aligned. */
function elementsOf(bytes: Uint8Array, dtype: Dtype) {
  const itemBytes = DTYPE_BYTES[dtype];
  const aligned = bytes.byteOffset % itemBytes === 0 ? bytes : new Uint8Array(bytes);
  const { buffer, byteOffset } = aligned;
  const length = aligned.length / itemBytes;
  switch (dtype) {
    case 'F64':
      return { dtype, elements: new Float64Array(buffer, byteOffset, length) } as const;
    case 'F32':
      return { dtype, elements: new Float32Array(buffer, byteOffset, length) } as const;
    case 'F16':
    case 'BF16':
      return { dtype, elements: new Uint16Array(buffer, byteOffset, length) } as const;
    case 'I64':
      return { dtype, elements: new BigInt64Array(buffer, byteOffset, length) } as const;
    case 'I32':
      return { dtype, elements: new Int32Array(buffer, byteOffset, length) } as const;
    case 'I16':
      return { dtype, elements: new Int16Array(buffer, byteOffset, length) } as const;
    case 'I8':
      return { dtype, elements: new Int8Array(buffer, byteOffset, length) } as const;
    case 'U8':
      return { dtype, elements: aligned } as const;
    default:
      return { dtype, elements: aligned.map((value) => (value === 0 ? 0 : 1)) } as const;
  }
}

/**
 * A tensor's values in float32. F16 and BF16 widen exactly, F64 rounds to nearest, integers convert by value, BOOL
 * gives 0 and 1.
 *
 * @param tensor Names file and tensor for messages.
 * @throws D2DMoEError `SAFETENSORS_VALUE_OUT_OF_RANGE` for an integer that float32 cannot hold exactly (some beyond
 *   2²⁴): rounding would make another index or count of it.
 */
export function toFloat32(bytes: Uint8Array, dtype: Dtype, tensor: string): Float32Array {
  const view = elementsOf(bytes, dtype);
  switch (view.dtype) {
    case 'F32':
      return view.elements;
    case 'F16':
      return float16ToFloat32(view.elements);
    case 'BF16':
      return bfloat16ToFloat32(view.elements);
    case 'I64': {
      const values = new Float32Array(view.elements.length);
      view.elements.forEach((element, i) => {
        values[i] = Number(element);
        if (BigInt(values[i]) !== element) {
          throw inexact(tensor, i, element);
        }
      });
      return values;
    }
    case 'I32': {
      const { elements } = view;
      const values = Float32Array.from(elements);
      const i = values.findIndex((value, index) => value !== elements[index]);
      if (i >= 0) {
        throw inexact(tensor, i, elements[i] as number);
      }
      return values;
    }
    default:
      return Float32Array.from(view.elements);
  }
}

function inexact(tensor: string, index: number, value: number | bigint): D2DMoEError {
  return new D2DMoEError(
    'SAFETENSORS_VALUE_OUT_OF_RANGE',
    `${tensor}: element ${index} is the integer ${value}, which float32 cannot hold exactly; read it as integers.`,
  );
}

/**
 * An integer tensor's values in int32; BOOL gives 0 and 1.
 *
 * @param tensor Names file and tensor for messages.
 * @throws D2DMoEError `SAFETENSORS_DTYPE_MISMATCH` for a floating-point dtype, `SAFETENSORS_VALUE_OUT_OF_RANGE` for an
 *   I64 value outside [−2³¹, 2³¹).
 */
export function toInt32(bytes: Uint8Array, dtype: Dtype, tensor: string): Int32Array {
  const view = elementsOf(bytes, dtype);
  switch (view.dtype) {
    case 'F64':
    case 'F32':
    case 'F16':
    case 'BF16':
      throw new D2DMoEError(
        'SAFETENSORS_DTYPE_MISMATCH',
        `${tensor}: dtype ${dtype} cannot be read as integers; I64, I32, I16, I8, U8 and BOOL can.`,
      );
    case 'I32':
      return view.elements;
    case 'I64': {
      const values = new Int32Array(view.elements.length);
      view.elements.forEach((element, i) => {
        if (BigInt.asIntN(32, element) !== element) {
          throw new D2DMoEError(
            'SAFETENSORS_VALUE_OUT_OF_RANGE',
            `${tensor}: element ${i} is ${element}, which 32 bits cannot hold; read its raw bytes.`,
          );
        }
        values[i] = Number(element);
      });
      return values;
    }
    default:
      return Int32Array.from(view.elements);
  }
}
