export { readEosTokenIds } from './generation-config.js';
export { type ImageProcessor, loadImageProcessor } from './image-processor.js';
export { checkCheckpoint, type LoadOptions, loadModel, readConfig } from './load.js';
export { type SaveOptions, saveModel } from './save.js';
export { loadTokenizer, type Tokenizer } from './tokenizer.js';
export { TextStream } from './text-stream.js';
