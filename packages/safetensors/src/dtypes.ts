/** Bytes per element of each dtype that this package reads and writes, largest first. */
export const DTYPE_BYTES = {
  F64: 8,
  I64: 8,
  F32: 4,
  I32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

/** The name of an element type, as the format spells it. */
export type Dtype = keyof typeof DTYPE_BYTES;

/** Whether `value` names a dtype that this package reads and writes. */
export function isDtype(value: unknown): value is Dtype {
  return typeof value === 'string' && Object.hasOwn(DTYPE_BYTES, value);
}
