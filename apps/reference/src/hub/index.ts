export { resolveCheckpoint, resolveDataset } from './resolve.js';
export type { ResolveOptions } from './resolve.js';
