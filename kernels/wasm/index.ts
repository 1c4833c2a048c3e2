export { adamStep } from './adam';
export { gemm, gemmScratch } from './gemm';
export { layerNorm, layerNormGrad } from './layer-norm';
export { segmentSum } from './segment-sum';
