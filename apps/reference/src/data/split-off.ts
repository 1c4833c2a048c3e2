import { D2DMoEError } from '@d2dmoe/core';
import type { Random } from '@d2dmoe/core';
import type { Document, SplitName } from './types.js';

/** Three splits, and what was done to have them. */
export interface Splits<E> {
  train: E[];
  validation: E[];
  test: E[];
  /** Which splits were made by seed, of what, and how large they are. */
  splitOff?: string;
}

/** The share of the training split that becomes a missing one, and the most examples that it gets. */
const share = 0.1;
const most = 2000;

/** Fewer documents than this are cut up before some are split off. */
const fewDocuments = 10;
const pieces = 20;

/**
 * Makes the splits that are not there, by seed. A missing validation split is a tenth of the training examples, at
 * most 2,000. A missing test split is half of the validation split where that one was given, because a checkpoint
 * was most likely trained on all of the training split and would score too well on a part of it; where neither was
 * given, it is another tenth, at most 2,000, of the training examples. What remains keeps its order.
 *
 * @param divide Applied to a split before a part of it is taken: cuts it finer where it has too few examples.
 * Throws SPLIT_EMPTY where too few examples are left to give each split one.
 */
export function completeSplits<E>(
  given: Partial<Record<SplitName, E[]>> & { train: E[] },
  random: Random,
  divide: (examples: E[]) => E[] = (examples) => examples,
): Splits<E> {
  const draws = random.fork('splits');
  if (given.validation !== undefined && given.test !== undefined) {
    return { train: given.train, validation: given.validation, test: given.test };
  }
  if (given.validation !== undefined) {
    const whole = divide(given.validation);
    const half = Math.floor(whole.length / 2);
    const [test, validation] = take(whole, [half], draws);
    requireSome('validation', whole.length, validation, test);
    return {
      train: given.train,
      validation: validation as E[],
      test: test as E[],
      splitOff: `test: ${half} of validation's ${whole.length} examples, by seed`,
    };
  }
  const whole = divide(given.train);
  const size = Math.max(1, Math.min(most, Math.floor(share * whole.length)));
  const [validation, ownTest, train] = take(whole, [size, given.test ? 0 : size], draws);
  const test = given.test ?? ownTest;
  requireSome('train', whole.length, train, validation, test);
  return {
    train: train as E[],
    validation: validation as E[],
    test: test as E[],
    splitOff: `${given.test ? 'validation' : 'validation and test'}: ${size} ${given.test ? '' : 'each '}of train's ${whole.length} examples, by seed`,
  };
}

/** Random parts of the given sizes, then the rest; each in the order of `examples`. */
function take<E>(examples: readonly E[], sizes: readonly number[], random: Random): E[][] {
  const part = new Uint8Array(examples.length).fill(sizes.length);
  const order = random.permutation(examples.length);
  let next = 0;
  sizes.forEach((size, index) => {
    for (const end = next + size; next < end && next < order.length; next++) {
      part[order[next] as number] = index;
    }
  });
  return [...sizes, 0].map((_, index) => examples.filter((_example, i) => part[i] === index));
}

function requireSome(from: SplitName, size: number, ...parts: (readonly unknown[] | undefined)[]) {
  if (parts.every((part) => part !== undefined && part.length > 0)) return;
  throw new D2DMoEError(
    'SPLIT_EMPTY',
    `The ${from} split has ${size} examples, too few to split off the parts that are missing.`,
  );
}

/**
 * Fewer than 10 documents, each cut at line ends into 20 pieces of about equal length; more documents as they are.
 * A line that is longer than a piece is cut at a space, and a text without any where the piece is full.
 */
export function divideDocuments(documents: Document[]): Document[] {
  return documents.length >= fewDocuments ? documents : documents.flatMap(cut);
}

function cut({ text }: Document): Document[] {
  const length = Math.ceil(text.length / pieces);
  const parts: Document[] = [];
  for (let start = 0; start < text.length; ) {
    const end = start + length < text.length ? boundary(text, start + length, length) : text.length;
    parts.push({ text: text.slice(start, end) });
    start = end;
  }
  return parts;
}

/** The end of the line, or of the word, that `position` is in, if that is at most `length` further. */
function boundary(text: string, position: number, length: number): number {
  for (const mark of ['\n', ' ']) {
    const found = text.slice(position - 1, position + length).indexOf(mark);
    if (found >= 0) return position + found;
  }
  // Not between the two halves of a character outside the basic plane.
  const code = text.charCodeAt(position);
  return code >= 0xdc00 && code < 0xe000 ? position + 1 : position;
}
