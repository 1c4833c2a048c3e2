export { loadDataset } from './load-dataset.js';
export type { LoadDatasetOptions } from './load-dataset.js';
export type {
  ColumnNames,
  DataFormat,
  Dataset,
  Document,
  ImageExample,
  Split,
  SplitName,
  Task,
  TaskExamples,
  TextExample,
} from './types.js';
