export { adamStep } from './adam';
export { expertCounts, expertHidden, expertOutput, expertRows, expertScratch } from './experts';
export { row, rowInt8, tile4, tile6 } from './experts';
export { gemmScratch } from './gemm';
export { layerNorm, layerNormGrad } from './layer-norm';
export { matMul } from './mat-mul';
export { packColumns, packRows } from './pack-experts';
export { segmentSum } from './segment-sum';
export { selectExperts } from './select-experts';
