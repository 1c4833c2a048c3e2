export { type DenseFeedForward, denseFeedForward } from './dense-feed-forward.js';
export { registerExpertKernels } from './register.js';
export {
  type AdapterDescription,
  useWebGPU,
  type WebGPUDevice,
  type WebGPUInfo,
  webgpuInfo,
} from './use-webgpu.js';
