export { registerGpuJs } from './gpujs/webgl.js';
