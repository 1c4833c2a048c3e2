/** An image with its class. */
export interface ImageExample {
  /** The encoded bytes (PNG, JPEG, …) as they were stored. */
  image: Uint8Array;
  /** Index of the class. */
  label: number;
}

/** A text with its class. */
export interface TextExample {
  text: string;
  /** Index of the class. */
  label: number;
}

/** A text to model token by token. */
export interface Document {
  text: string;
}

/** What one example of each task is. */
export interface TaskExamples {
  'image-classification': ImageExample;
  'text-classification': TextExample;
  'text-generation': Document;
}

/** What a data set is for. */
export type Task = keyof TaskExamples;

/** How a data set is stored. */
export type DataFormat = 'parquet' | 'jsonl' | 'csv' | 'image-folder' | 'text';

/** The examples of one split, in the order of the files. */
export type Split<E> = readonly E[];

/** The names of the three splits. */
export type SplitName = 'train' | 'validation' | 'test';

/** A data set in memory. No split is empty. */
export interface Dataset<E> {
  format: DataFormat;
  train: Split<E>;
  validation: Split<E>;
  test: Split<E>;
  /** The classes' names in the order of their indices, where they are known. */
  labels?: string[];
  /** The folder that it was read from. */
  source: string;
  /** SHA-256 (hex) over the names and contents of all files that were read. */
  hash: string;
  /** Which splits were made by seed, of what, and how large they are. */
  splitOff?: string;
}

/** The columns that hold what a task needs, where they are not named as usual. */
export interface ColumnNames {
  /** Otherwise `text`, `sentence`, `content` or `document`. */
  text?: string;
  /** Otherwise `label` or `labels`. */
  label?: string;
  /** Otherwise `image`, `img` or `file_name`. */
  image?: string;
}
