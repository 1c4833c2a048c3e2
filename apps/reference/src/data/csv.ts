import { readFile } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import { CsvError, parse } from 'csv-parse/sync';
import { decodeUtf8 } from './files.js';
import type { DataFile } from './files.js';
import type { Table } from './table.js';

/**
 * Reads a CSV file (RFC 4180, commas) whose first record names the columns; empty lines are skipped. Throws
 * DATA_MALFORMED, with the line, on a stray or open quote and on a record with more or fewer fields than the header.
 */
export async function openCsv({ path, name }: DataFile): Promise<Table> {
  const records = parseRecords(decodeUtf8(await readFile(path), name), name);
  const columns = records[0]?.record ?? [];
  const rows = records.slice(1);
  return {
    path,
    name,
    columns,
    rows: rows.length,
    read: (wanted) =>
      Promise.resolve(
        wanted.map((column) => {
          const index = columns.indexOf(column);
          return rows.map(({ record }) => record[index]);
        }),
      ),
    // The parser counts the lines that it has read: a record with line breaks inside begins that much earlier.
    where: (row) => {
      const { record, info } = rows[row] as CsvRecord;
      return `line ${info.lines - record.reduce((sum, field) => sum + field.split('\n').length - 1, 0)}`;
    },
  };
}

interface CsvRecord {
  record: string[];
  info: { lines: number };
}

function parseRecords(text: string, name: string): CsvRecord[] {
  try {
    return parse(text, { bom: true, info: true, skip_empty_lines: true }) as unknown as CsvRecord[];
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    const problem =
      cause.code === 'CSV_RECORD_INCONSISTENT_FIELDS_LENGTH'
        ? 'has more or fewer fields than the header'
        : 'has a quote that is stray or never closed';
    throw new D2DMoEError('DATA_MALFORMED', `${name} line ${String(cause['lines'])} ${problem}.`, {
      cause,
    });
  }
}
