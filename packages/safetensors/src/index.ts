export { bufferSource } from './byte-source.js';
export type { ByteSource } from './byte-source.js';
export { DTYPE_BYTES, isDtype } from './dtypes.js';
export type { Dtype } from './dtypes.js';
export { encodeSafetensors } from './encode.js';
export type { TensorData, TensorDescription, TensorEntry } from './encode.js';
export { fetchSource } from './fetch-source.js';
export type { FetchSourceOptions } from './fetch-source.js';
export {
  bfloat16ToFloat32,
  float16ToFloat32,
  float32ToBFloat16,
  float32ToFloat16,
} from './half.js';
export { MAX_HEADER_BYTES } from './header.js';
export type { TensorInfo } from './header.js';
export { openSafetensors } from './reader.js';
export type { SafetensorsFile, TensorReader } from './reader.js';
export { openSharded } from './sharded.js';
export type { ShardedSafetensors } from './sharded.js';
