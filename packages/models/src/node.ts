export { type ImageProcessor, loadImageProcessor } from './image-processor.js';
export { type LoadOptions, loadModel, readConfig } from './load.js';
export { type SaveOptions, saveModel } from './save.js';
export { loadTokenizer, type Tokenizer } from './tokenizer.js';
