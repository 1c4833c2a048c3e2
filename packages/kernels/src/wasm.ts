export { registerWasmKernels } from './wasm/register.js';
