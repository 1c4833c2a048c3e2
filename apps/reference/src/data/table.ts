import { D2DMoEError } from '@d2dmoe/core';
import type { ColumnNames } from './types.js';

/** A file of named columns. */
export interface Table {
  /** Its path on the disk. */
  path: string;
  /** Its path inside the data folder, for messages. */
  name: string;
  columns: readonly string[];
  /** The number of rows. */
  rows: number;
  /** The values of each of the named columns, row by row. */
  read(columns: readonly string[]): Promise<unknown[][]>;
  /** Where a row (from 0) is in the file, as a person would look for it: `row 3` or `line 4`. */
  where(row: number): string;
  /** The names that stand for the class numbers of a column, where the file gives them. */
  classNames?(column: string): string[] | undefined;
}

const usualNames: Record<keyof ColumnNames, readonly string[]> = {
  text: ['text', 'sentence', 'content', 'document'],
  label: ['label', 'labels'],
  image: ['image', 'img', 'file_name'],
};

/**
 * The table's column for a role: the one that `names` asks for, else the first with a usual name in any case. Throws
 * COLUMN_MISSING, which names the columns that are there.
 */
export function findColumn(table: Table, role: keyof ColumnNames, names: ColumnNames): string {
  const asked = names[role];
  const there = `its columns are ${table.columns.map((column) => `"${column}"`).join(', ')}`;
  if (asked !== undefined) {
    if (table.columns.includes(asked)) return asked;
    throw new D2DMoEError('COLUMN_MISSING', `${table.name} has no column "${asked}": ${there}.`);
  }
  for (const usual of usualNames[role]) {
    const found = table.columns.find((column) => column.toLowerCase() === usual);
    if (found !== undefined) return found;
  }
  throw new D2DMoEError(
    'COLUMN_MISSING',
    `${table.name} has no ${role} column (${usualNames[role].join(', ')}): ${there}; name the one that holds it.`,
  );
}
