import { D2DMoEError } from '@d2dmoe/core';
import { asyncBufferFromFile, parquetMetadataAsync, parquetRead, parquetSchema } from 'hyparquet';
import type { FileMetaData } from 'hyparquet';
import { compressors } from 'hyparquet-compressors';
import type { DataFile } from './files.js';
import type { Table } from './table.js';

/** Opens a parquet file: reads its footer only. Throws DATA_MALFORMED where it is cut off or damaged. */
export async function openParquet({ path, name }: DataFile): Promise<Table> {
  const file = await asyncBufferFromFile(path);
  const metadata = await guarded(name, () => parquetMetadataAsync(file));
  const columns = parquetSchema(metadata).children.map((child) => child.element.name);
  return {
    path,
    name,
    columns,
    rows: Number(metadata.num_rows),
    read: (wanted) =>
      guarded(name, async () => {
        let result: unknown[][] = [];
        await parquetRead({
          file,
          metadata,
          compressors,
          columns: [...wanted],
          // Byte arrays without a text annotation are images.
          utf8: false,
          rowFormat: 'object',
          onComplete: (read) => {
            result = wanted.map((column) => read.map((row) => row[column] as unknown));
          },
        });
        return result;
      }),
    where: (row) => `row ${row}`,
    classNames: (column) => hubClassNames(metadata, column),
  };
}

/** The names of a ClassLabel feature, from the `huggingface` entry that the datasets library writes into the file. */
function hubClassNames(metadata: FileMetaData, column: string): string[] | undefined {
  const entry = metadata.key_value_metadata?.find(({ key }) => key === 'huggingface');
  if (entry?.value === undefined) return undefined;
  try {
    const { info } = JSON.parse(entry.value) as {
      info?: { features?: Record<string, { names?: unknown }> };
    };
    const names = info?.features?.[column]?.names;
    return Array.isArray(names) ? names.map(String) : undefined;
  } catch {
    // The entry is a hint: the numbers in the file stand without it.
    return undefined;
  }
}

async function guarded<T>(name: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new D2DMoEError(
      'DATA_MALFORMED',
      `${name} cannot be read as parquet, it is damaged or incomplete: ${reason.replace(/\.$/, '')}.`,
      { cause },
    );
  }
}
