export { openCheckpoint } from './checkpoint.js';
export { fileSource } from './file-source.js';
export { attemptWrite, makeFolder, writeFileAtomic } from './write-atomic.js';
export { writeSafetensors } from './write-safetensors.js';
export type { LazyTensorEntry, WriteSafetensorsOptions } from './write-safetensors.js';
