import { mkdir, mkdtemp, open, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { encodeSafetensors, openSafetensors } from './index.js';
import {
  fileSource,
  openCheckpoint,
  writeFileAtomic,
  writeSafetensors,
  type LazyTensorEntry,
} from './node.js';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'safetensors-'));
});

afterEach(async () => {
  await rm(folder, { recursive: true });
});

const tensor = (name: string, ...values: number[]) => ({
  name,
  dtype: 'F32' as const,
  shape: [values.length],
  data: Float32Array.from(values),
});

describe('fileSource', () => {
  test('a sparse file of 5 GB opens at once and gives its last tensor', async () => {
    const path = join(folder, 'huge.safetensors');
    const rows = 1_250_000_000;
    const header = JSON.stringify({
      embedding: { dtype: 'F32', shape: [rows], data_offsets: [0, 4 * rows] },
      last: { dtype: 'I16', shape: [2], data_offsets: [4 * rows, 4 * rows + 4] },
    });
    const head = Buffer.alloc(8 + header.length, header);
    head.writeBigUInt64LE(BigInt(header.length));
    head.write(header, 8);
    const handle = await open(path, 'w');
    await handle.write(head);
    await handle.write(Uint8Array.of(1, 0, 2, 0), 0, 4, head.length + 4 * rows);
    await handle.close();

    const source = await fileSource(path);
    const ranges: [number, number][] = [];
    const file = await openSafetensors({
      ...source,
      read(begin, end) {
        ranges.push([begin, end]);
        return source.read(begin, end);
      },
    });
    expect(source.size).toBeGreaterThan(5e9);
    expect(ranges).toEqual([
      [0, 8],
      [8, head.length],
    ]);
    expect(await file.readInt32('last')).toEqual(Int32Array.of(1, 2));
    await file.close();
  });

  test('a missing file and a folder are refused by name', async () => {
    const missing = join(folder, 'none.safetensors');
    await expect(fileSource(missing)).rejects.toMatchObject({
      code: 'SAFETENSORS_FILE_MISSING',
      message: expect.stringContaining(missing),
    });
    await expect(fileSource(folder)).rejects.toMatchObject({ code: 'SAFETENSORS_FILE_MISSING' });
  });

  test('a file that shrinks after it was opened is truncated', async () => {
    const path = join(folder, 'x.safetensors');
    const bytes = encodeSafetensors([tensor('x', 1, 2)]);
    await writeFile(path, bytes);
    const file = await openSafetensors(await fileSource(path));
    await writeFile(path, bytes.slice(0, -3));
    await expect(file.read('x')).rejects.toMatchObject({ code: 'SAFETENSORS_TRUNCATED' });
    await file.close();
    await expect(file.read('x')).rejects.toMatchObject({ code: 'SAFETENSORS_READ_FAILED' });
  });
});

describe('openCheckpoint', () => {
  test('a folder with model.safetensors', async () => {
    await writeSafetensors(join(folder, 'model.safetensors'), [tensor('x', 1, 2)]);
    const checkpoint = await openCheckpoint(folder);
    expect(await checkpoint.readFloat32('x')).toEqual(Float32Array.of(1, 2));
    await checkpoint.close();
  });

  test('a folder with shards, which may be links to elsewhere', async () => {
    await mkdir(join(folder, 'blobs'));
    await mkdir(join(folder, 'snapshot'));
    await writeSafetensors(join(folder, 'blobs/1'), [tensor('x', 1)]);
    await symlink('../blobs/1', join(folder, 'snapshot/one.safetensors'));
    await writeSafetensors(join(folder, 'snapshot/two.safetensors'), [tensor('y', 2)]);
    await writeFile(
      join(folder, 'snapshot/model.safetensors.index.json'),
      JSON.stringify({
        metadata: { total_size: 8 },
        weight_map: { x: 'one.safetensors', y: 'two.safetensors' },
      }),
    );
    const checkpoint = await openCheckpoint(join(folder, 'snapshot'));
    expect(await checkpoint.readFloat32('x')).toEqual(Float32Array.of(1));
    expect(await checkpoint.readFloat32('y')).toEqual(Float32Array.of(2));
    await checkpoint.close();
  });

  const badIndexes: [what: string, code: string, index: string][] = [
    ['no JSON', 'SAFETENSORS_INDEX_INVALID', '{'],
    ['a shard outside the folder', 'SAFETENSORS_INDEX_INVALID', '{"weight_map":{"x":"../x"}}'],
    ['a missing shard', 'SAFETENSORS_SHARD_MISSING', '{"weight_map":{"x":"x.safetensors"}}'],
    ['a tensor twice', 'SAFETENSORS_DUPLICATE_NAME', '{"weight_map":{"x":"a","x":"b"}}'],
  ];
  test.each(badIndexes)('an index with %s: %s', async (_what, code, index) => {
    const path = join(folder, 'model.safetensors.index.json');
    await writeFile(path, index);
    await expect(openCheckpoint(folder)).rejects.toMatchObject({
      code,
      message: expect.stringContaining(path),
    });
  });

  test('a folder with neither, and one that is not there', async () => {
    for (const directory of [folder, join(folder, 'none')]) {
      await expect(openCheckpoint(directory)).rejects.toMatchObject({
        code: 'SAFETENSORS_CHECKPOINT_MISSING',
        message: expect.stringContaining(directory),
      });
    }
  });
});

describe('writeSafetensors', () => {
  test('a file is what encodeSafetensors makes of the same tensors', async () => {
    const path = join(folder, 'model.safetensors');
    const entries: LazyTensorEntry[] = [
      { ...tensor('half', 1.5), dtype: 'BF16' },
      { ...tensor('b', 1), data: async () => Float32Array.of(1) },
      { ...tensor('a', 2), data: () => new Uint8Array(Float32Array.of(2).buffer) },
    ];
    await writeSafetensors(path, entries, { metadata: { format: 'pt' } });
    expect(new Uint8Array(await readFile(path))).toEqual(
      encodeSafetensors(
        [tensor('a', 2), tensor('b', 1), { ...tensor('half', 1.5), dtype: 'BF16' }],
        { format: 'pt' },
      ),
    );
    expect(await readdir(folder)).toEqual(['model.safetensors']);
  });

  test('data are made one tensor at a time, in the order of the file', async () => {
    const events: string[] = [];
    const lazy = (name: string, dtype: 'F32' | 'F16'): LazyTensorEntry => ({
      name,
      dtype,
      shape: [1],
      data: async () => {
        events.push(`begin ${name}`);
        await new Promise((resolve) => setTimeout(resolve, 1));
        events.push(`end ${name}`);
        return new Float32Array(1);
      },
    });
    await writeSafetensors(join(folder, 'x'), [
      lazy('a', 'F16'),
      lazy('c', 'F32'),
      lazy('b', 'F32'),
    ]);
    expect(events).toEqual(['b', 'c', 'a'].flatMap((name) => [`begin ${name}`, `end ${name}`]));
  });

  test('a checkpoint can be read while it is replaced', async () => {
    const path = join(folder, 'model.safetensors');
    await writeSafetensors(path, [tensor('x', 1)]);
    const old = await openCheckpoint(folder);
    const data = async () => (await old.readFloat32('x')).map((value) => value + 1);
    await writeSafetensors(path, [{ ...tensor('x', 0), data }]);
    expect(await old.readFloat32('x')).toEqual(Float32Array.of(1));
    await old.close();
    const replaced = await openCheckpoint(folder);
    expect(await replaced.readFloat32('x')).toEqual(Float32Array.of(2));
    await replaced.close();
  });

  const badEntries: [what: string, code: string, entries: LazyTensorEntry[]][] = [
    ['two of one name', 'DUPLICATE_NAME', [tensor('x', 1), tensor('x', 2)]],
    ['too few values', 'SHAPE_MISMATCH', [{ ...tensor('x', 1), shape: [2] }]],
    ['too few raw bytes', 'SHAPE_MISMATCH', [{ ...tensor('x', 1), data: new Uint8Array(3) }]],
    ['values of another kind', 'DTYPE_MISMATCH', [{ ...tensor('x', 1), dtype: 'I32' }]],
    ['an invalid shape', 'SHAPE_INVALID', [{ ...tensor('x', 1), shape: [-1] }]],
    ['an unknown dtype', 'DTYPE_UNKNOWN', [{ ...tensor('x', 1), dtype: 'F8' as 'F32' }]],
    ['the reserved name', 'NAME_INVALID', [tensor('__metadata__', 1)]],
    ['a name that is not Unicode', 'NAME_INVALID', [tensor('\ud800', 1)]],
    ['a header over the cap', 'HEADER_TOO_LARGE', [tensor('x'.repeat(100_000_000), 1)]],
  ];
  test.each(badEntries)('%s: SAFETENSORS_%s, and the old file stays', async (_, code, entries) => {
    const path = join(folder, 'model.safetensors');
    await writeFile(path, 'old');
    await expect(writeSafetensors(path, entries)).rejects.toMatchObject({
      code: `SAFETENSORS_${code}`,
      message: expect.stringContaining(path),
    });
    expect(await readFile(path, 'utf8')).toBe('old');
    expect(await readdir(folder)).toEqual(['model.safetensors']);
  });

  test('metadata must be strings', async () => {
    const metadata = { epochs: 3 } as unknown as Record<string, string>;
    await expect(writeSafetensors(join(folder, 'x'), [], { metadata })).rejects.toMatchObject({
      code: 'SAFETENSORS_METADATA_INVALID',
    });
  });

  test("an error of an entry's own function comes through as it is", async () => {
    const error = new Error('aborted');
    const data = () => Promise.reject(error);
    await expect(writeSafetensors(join(folder, 'x'), [{ ...tensor('x', 1), data }])).rejects.toBe(
      error,
    );
    expect(await readdir(folder)).toEqual([]);
  });
});

describe('writeFileAtomic', () => {
  test('text and bytes replace what was there', async () => {
    const path = join(folder, 'record.json');
    await writeFileAtomic(path, '{"τ":1}');
    expect(await readFile(path, 'utf8')).toBe('{"τ":1}');
    await writeFileAtomic(path, Uint8Array.of(1, 2));
    expect([...(await readFile(path))]).toEqual([1, 2]);
    expect(await readdir(folder)).toEqual(['record.json']);
  });

  test('writes to one path at the same time leave one of them whole', async () => {
    const path = join(folder, 'record.json');
    const texts = Array.from({ length: 8 }, (_, i) => String(i).repeat(10_000));
    await Promise.all(texts.map((text) => writeFileAtomic(path, text)));
    expect(texts).toContain(await readFile(path, 'utf8'));
    expect(await readdir(folder)).toEqual(['record.json']);
  });

  test('a write that begins and ends within another leaves that one alone', async () => {
    const path = join(folder, 'x.safetensors');
    const data = async () => {
      await writeFileAtomic(path, 'in between');
      return Float32Array.of(1);
    };
    await writeSafetensors(path, [{ ...tensor('x', 0), data }]);
    expect(new Uint8Array(await readFile(path))).toEqual(encodeSafetensors([tensor('x', 1)]));
    expect(await readdir(folder)).toEqual(['x.safetensors']);
  });

  test('a folder that is not there, or a folder in the way: WRITE_FAILED, nothing left', async () => {
    await mkdir(join(folder, 'taken'));
    for (const path of [join(folder, 'none', 'x.json'), join(folder, 'taken')]) {
      await expect(writeFileAtomic(path, 'x')).rejects.toMatchObject({
        code: 'WRITE_FAILED',
        message: expect.stringContaining(path),
      });
    }
    expect(await readdir(folder)).toEqual(['taken']);
  });

  test('what killed writers left behind goes, what live ones write stays', async () => {
    const dead = 2 ** 22 + 1;
    const names = {
      dead: `.record.json.${dead}.0.tmp`,
      reusedPid: `.record.json.${process.pid}.999999.tmp`,
      live: `.record.json.${process.ppid}.0.tmp`,
      otherFile: `.other.json.${dead}.0.tmp`,
    };
    for (const name of Object.values(names)) {
      await writeFile(join(folder, name), '');
    }
    await writeFileAtomic(join(folder, 'record.json'), 'x');
    expect((await readdir(folder)).sort()).toEqual(
      [names.live, names.otherFile, 'record.json'].sort(),
    );
  });
});
