import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CudaBackend } from '../backend.js';
import { ACTIVATIONS, type ExpertsCall, type Storage, WEIGHT_BYTES } from './call.js';

/** Where the rows of a launch are. */
export interface LaunchRows {
  readonly x: number;
  readonly isX16: boolean;
  readonly selection: number;
  readonly out: number;
  readonly isOut16: boolean;
}

/**
 * The expert op, so many rows a launch.
 *
 * @param most Rows of a launch.
 * @param launch Gets the call with the rows of one launch alone, and where these are.
 * @param isRouted Whether launches select for themselves: there is no call.selection.
 * @returns [N, dOut], in bf16 where the backend's precision is.
 */
export function inLaunches(
  backend: CudaBackend,
  call: ExpertsCall,
  most: number,
  launch: (call: ExpertsCall, at: LaunchRows) => void,
  isRouted = false,
): TensorInfo {
  const { rows, dIn, dOut, experts, storage } = call;
  const isOut16 = backend.precision === 'bf16';
  const shape = [rows, dOut];
  const out = isOut16 ? backend.output16(shape) : backend.output(shape, 'float32');
  const isX16 = backend.has16(call.x) && (storage === 'bfloat16' || backend.isOnly16(call.x));
  const x = isX16 ? backend.pointer16(call.x) : backend.pointer(call.x);
  const selection = isRouted ? 0 : backend.pointer(call.selection);
  for (let first = 0; first < rows; first += most) {
    launch(
      { ...call, rows: Math.min(most, rows - first) },
      {
        x: x + first * dIn * (isX16 ? 2 : 4),
        isX16,
        selection: selection + first * experts,
        out: out.pointer + first * dOut * (isOut16 ? 2 : 4),
        isOut16,
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

/** What follows the last pointer: sizes, activation, and the types of x and the result. */
export function shapeArguments(call: ExpertsCall, at: LaunchRows): number[] {
  return [
    call.rows,
    call.dIn,
    call.dOut,
    call.experts,
    call.expertSize,
    ACTIVATIONS.indexOf(call.activation),
    at.isX16 ? 1 : 0,
    at.isOut16 ? 1 : 0,
  ];
}
