import { D2DMoEError } from '@d2dmoe/core';
import type { Chunk } from './chunk.js';

/** What is known of the classes beforehand. */
export interface KnownClasses {
  /** The model's class names in the order of their indices. */
  labels?: readonly string[] | undefined;
  /** The number of classes. */
  classes?: number | undefined;
}

/** Class indices for the labels of each chunk, row by row, and the names of the classes where they are known. */
export interface ResolvedLabels {
  indices: number[][];
  names?: string[] | undefined;
}

/**
 * Turns labels into class indices. A name is looked up in the model's names, else in the sorted names that occur. A
 * number is the index itself, unless the data name their numbers and the model has all those names: then the name
 * decides. `LABEL_0`, `LABEL_1`, … are no names: they are what a config has that was never given any.
 *
 * Throws LABEL_OUT_OF_RANGE on the first label that is none of the classes.
 */
export function resolveLabels(
  chunks: readonly Chunk[],
  { labels, classes }: KnownClasses,
): ResolvedLabels {
  const modelNames = labels?.every((name) => /^LABEL_\d+$/.test(name)) ? undefined : labels;
  const all = new Set(chunks.flatMap((chunk) => [...new Set(chunk.labels)]));
  const texts = [...all].filter((label) => typeof label === 'string');
  // CSV has only texts: they are numbers where all of them look so and the model does not have them as names.
  const byName =
    !texts.every(isInteger) ||
    (modelNames !== undefined && texts.every((text) => modelNames.includes(text)));
  const dataNames = chunks.find((chunk) => chunk.classNames !== undefined)?.classNames;
  const names = modelNames ?? dataNames ?? (byName && texts.length > 0 ? texts.sort() : undefined);
  const count = classes ?? labels?.length ?? names?.length ?? Number.POSITIVE_INFINITY;

  const cache = new Map<unknown, number>();
  const indexOf = (label: unknown, where: string) => {
    const index =
      typeof label === 'string' && byName
        ? (names ?? []).indexOf(label)
        : renumber(toInteger(label), dataNames, modelNames);
    if (index >= 0 && index < count) return index;
    const given = typeof label === 'string' ? `"${label}"` : String(label);
    throw new D2DMoEError(
      'LABEL_OUT_OF_RANGE',
      `${where} has label ${given}, but the classes are ${range(count, typeof label === 'string' && byName ? names : undefined)}.`,
    );
  };
  const indices = chunks.map((chunk) =>
    (chunk.labels ?? []).map((label, row) => {
      let index = cache.get(label);
      if (index === undefined) {
        index = indexOf(label, chunk.where(row));
        cache.set(label, index);
      }
      return index;
    }),
  );
  return { indices, names: names === undefined ? undefined : [...names] };
}

function isInteger(text: string): boolean {
  return /^[+-]?\d+$/.test(text.trim());
}

/** A label as a class number; −1 where it is none. */
function toInteger(label: unknown): number {
  if (typeof label === 'string') return isInteger(label) ? Number(label) : -1;
  const number = typeof label === 'bigint' ? Number(label) : label;
  return Number.isInteger(number) ? (number as number) : -1;
}

function renumber(
  index: number,
  dataNames: readonly string[] | undefined,
  modelNames: readonly string[] | undefined,
): number {
  if (
    dataNames === undefined ||
    !modelNames ||
    !dataNames.every((name) => modelNames.includes(name))
  )
    return index;
  const name = dataNames[index];
  return name === undefined ? -1 : modelNames.indexOf(name);
}

function range(count: number, names: readonly string[] | undefined): string {
  if (names !== undefined) {
    const shown = names.slice(0, 10).map((name) => `"${name}"`);
    return `${shown.join(', ')}${names.length > 10 ? ` and ${names.length - 10} more` : ''}`;
  }
  return Number.isFinite(count) ? `0 to ${count - 1}` : 'whole numbers from 0';
}

/** Whether every label is −1, as in the hub's test splits whose labels are not public. */
export function hasNoLabels({ labels = [] }: Chunk): boolean {
  return labels.length > 0 && labels.every((label) => Number(label) === -1);
}
