export { D2DMoEError } from './errors.js';
export type { ProgressCallback, ProgressEvent } from './progress.js';
export { Random } from './random.js';
