export { registerWasmKernels } from './wasm/register.js';
export { shareTfjsMemory } from './wasm/share-tfjs-memory.js';
export type { ThreadOptions } from './wasm/module.js';
