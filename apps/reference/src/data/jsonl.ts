import { readFile } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import { decodeUtf8 } from './files.js';
import type { DataFile } from './files.js';
import type { Table } from './table.js';

/**
 * Reads a file of one JSON object a line; empty lines are skipped, and the columns are the first object's fields.
 * Throws DATA_MALFORMED, with the line, where a line is not a JSON object.
 */
export async function openJsonl({ path, name }: DataFile): Promise<Table> {
  const bytes = await readFile(path);
  const rows: Record<string, unknown>[] = [];
  const lines: number[] = [];
  let line = 0;
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(0x0a, start);
    const end = newline < 0 ? bytes.length : newline;
    line += 1;
    const where = `${name} line ${line}`;
    const text = decodeUtf8(bytes.subarray(start, end), where).trim();
    start = end + 1;
    if (text === '') continue;
    rows.push(parseObject(text, where));
    lines.push(line);
  }
  return {
    path,
    name,
    columns: Object.keys(rows[0] ?? {}),
    rows: rows.length,
    read: (columns) => Promise.resolve(columns.map((column) => rows.map((row) => row[column]))),
    where: (row) => `line ${lines[row]}`,
  };
}

function parseObject(text: string, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new D2DMoEError('DATA_MALFORMED', `${where} is not valid JSON.`, { cause });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new D2DMoEError('DATA_MALFORMED', `${where} must be a JSON object, like {"text": "…"}.`);
  }
  return value as Record<string, unknown>;
}
