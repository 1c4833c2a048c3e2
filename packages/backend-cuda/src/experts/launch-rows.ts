import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { formsIn } from '../kernels/forms.js';
import { HALF_TYPES, type HalfType, halfTypeOf } from '../tensor-data.js';
import { ACTIVATIONS, type ExpertsCall, HALF_OF, type Storage, WEIGHT_BYTES } from './call.js';

/** Where the rows of a launch are. */
export interface LaunchRows {
  readonly x: number;
  /** The type of x where it is not float32. */
  readonly halfX: HalfType | undefined;
  readonly selection: number;
  readonly out: number;
  /** The same of the result. */
  readonly halfOut: HalfType | undefined;
}

/**
 * The expert op, so many rows a launch.
 *
 * @param most Rows of a launch.
 * @param launch Gets the call with the rows of one launch alone, and where these are.
 * @param isRouted Whether launches select for themselves: there is no call.selection.
 * @returns [N, dOut], in 16 bits where the backend's precision is.
 */
export function inLaunches(
  backend: CudaBackend,
  call: ExpertsCall,
  most: number,
  launch: (call: ExpertsCall, at: LaunchRows) => void,
  isRouted = false,
): TensorInfo {
  const { rows, dIn, dOut, experts, storage } = call;
  const halfOut = halfTypeOf(backend.precision);
  const out = formsIn(backend, halfOut).output([rows, dOut]);
  const own = HALF_OF[storage];
  const halfX =
    own && backend.has16(call.x, own)
      ? own
      : HALF_TYPES.find((type) => backend.isOnly16(call.x, type));
  const x = formsIn(backend, halfX).pointer(call.x);
  const selection = isRouted ? 0 : backend.pointer(call.selection);
  for (let first = 0; first < rows; first += most) {
    launch(
      { ...call, rows: Math.min(most, rows - first) },
      {
        x: x + first * dIn * (halfX ? 2 : 4),
        halfX,
        selection: selection + first * experts,
        out: out.pointer + first * dOut * (halfOut ? 2 : 4),
        halfOut,
      },
    );
  }
  return out;
}

/** What reads weights in a storage: float32 ones are rounded to tf32 unless the backend's precision is float32. */
type WeightForm = Storage | 'tf32';

/** Kernels by the weights that they read, from the end of their names. */
export function byForm<K>(kernelsOf: (name: string) => K): Readonly<Record<WeightForm, K>> {
  return {
    float16: kernelsOf('f16'),
    bfloat16: kernelsOf('bf16'),
    tf32: kernelsOf('tf32'),
    float32: kernelsOf('f32'),
    int8: kernelsOf('int8'),
  };
}

/** The key of {@link byForm} for a call. */
export function formOf(backend: CudaBackend, { storage }: ExpertsCall): WeightForm {
  return storage === 'float32' && backend.precision !== 'float32' ? 'tf32' : storage;
}

/** What kernels' arguments begin with: a launch's x and selection, and the packed weights. */
export function inputArguments(call: ExpertsCall, at: LaunchRows): number[] {
  return [
    at.x,
    at.selection,
    call.up,
    call.gate,
    call.down,
    call.upBias,
    call.gate === 0 ? 0 : call.gateBias,
    call.downBias,
    WEIGHT_BYTES[call.storage] === 1 ? call.scales : 0,
  ];
}

/** As the kernels number types: float32, then those of 16 bits. */
const typeCode = (half: HalfType | undefined) => (half ? HALF_TYPES.indexOf(half) + 1 : 0);

/** What follows the last pointer: sizes, activation, and the types of x and the result. */
export function shapeArguments(call: ExpertsCall, at: LaunchRows): number[] {
  return [
    call.rows,
    call.dIn,
    call.dOut,
    call.experts,
    call.expertSize,
    ACTIVATIONS.indexOf(call.activation),
    typeCode(at.halfX),
    typeCode(at.halfOut),
  ];
}
