import { readFile } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  bufferSource,
  DTYPE_BYTES,
  encodeSafetensors,
  openSafetensors,
  type ByteSource,
  type Dtype,
  type TensorData,
} from './index.js';

/** A file with this header, as text or as a value, before `dataBytes` zero bytes. */
function fileOf(header: unknown, dataBytes = 0): Uint8Array {
  const text = typeof header === 'string' ? header : JSON.stringify(header);
  return fileOfBytes(new TextEncoder().encode(text), dataBytes);
}

function fileOfBytes(header: Uint8Array, dataBytes = 0): Uint8Array {
  const bytes = new Uint8Array(8 + header.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(header, 8);
  return bytes;
}

/** A source that fails the test when it is read out of range, and remembers what was read. */
function watchedSource(bytes: Uint8Array): ByteSource & { ranges: [number, number][] } {
  const ranges: [number, number][] = [];
  return {
    name: 'watched',
    size: bytes.length,
    ranges,
    async read(begin, end) {
      if (!(begin >= 0 && begin <= end && end <= bytes.length)) {
        throw new RangeError(`read of ${begin} to ${end} in ${bytes.length} bytes`);
      }
      ranges.push([begin, end]);
      return bytes.slice(begin, end);
    },
  };
}

const entry = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

const dtypes = Object.keys(DTYPE_BYTES) as Dtype[];

const tensorArbitrary = fc
  .record({
    dtype: fc.constantFrom(...dtypes),
    shape: fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 4 }),
  })
  .chain(({ dtype, shape }) => {
    const length = shape.reduce((a, b) => a * b, 1) * DTYPE_BYTES[dtype];
    return fc.record({
      name: fc
        .oneof(
          fc.string({ unit: 'binary' }),
          fc.constantFrom('', '0', '1', '__proto__', 'a.b', 'ñ☃𝔵'),
        )
        .filter((name) => name !== '__metadata__'),
      dtype: fc.constant(dtype),
      shape: fc.constant(shape),
      data: fc.uint8Array({ minLength: length, maxLength: length }),
    });
  });

const tensorsArbitrary = fc.uniqueArray(tensorArbitrary, {
  selector: ({ name }) => name,
  maxLength: 6,
});
const metadataArbitrary = fc.dictionary(
  fc.string({ unit: 'binary' }),
  fc.string({ unit: 'binary' }),
);

describe('round trip', () => {
  test('every tensor comes back byte for byte, with its dtype, shape and the metadata', async () => {
    await fc.assert(
      fc.asyncProperty(tensorsArbitrary, metadataArbitrary, async (tensors, metadata) => {
        const bytes = encodeSafetensors(tensors, metadata);
        const file = await openSafetensors(watchedSource(bytes));
        expect(Object.entries(file.metadata)).toEqual(Object.entries(metadata));
        expect(file.tensors.size).toBe(tensors.length);
        for (const { name, dtype, shape, data } of tensors) {
          expect(file.tensors.get(name)).toMatchObject({ name, dtype, shape, file: 'watched' });
          expect(await file.read(name)).toEqual(data);
        }
        const again = Array.from(file.tensors.values(), async ({ name, dtype, shape }) => ({
          name,
          dtype,
          shape,
          data: await file.read(name),
        }));
        expect(encodeSafetensors(await Promise.all(again), file.metadata)).toEqual(bytes);
      }),
    );
  });

  test('tensors are aligned to their elements, sorted by width and then by name', async () => {
    await fc.assert(
      fc.asyncProperty(tensorsArbitrary, async (tensors) => {
        const file = await openSafetensors(bufferSource(encodeSafetensors(tensors)));
        const written = [...file.tensors.values()].filter(({ begin, end }) => end > begin);
        const sorted = [...written].sort(
          (a, b) => DTYPE_BYTES[b.dtype] - DTYPE_BYTES[a.dtype] || (a.name < b.name ? -1 : 1),
        );
        expect(written.map(({ name }) => name)).toEqual(sorted.map(({ name }) => name));
        for (const { begin, dtype } of written) {
          expect(begin % DTYPE_BYTES[dtype]).toBe(0);
        }
      }),
    );
  });

  test('the bytes are those that the format prescribes', () => {
    const bytes = encodeSafetensors(
      [{ name: 'x', dtype: 'I16', shape: [2], data: Int16Array.of(1, -2) }],
      { format: 'pt' },
    );
    const header =
      '{"__metadata__":{"format":"pt"},"x":{"dtype":"I16","shape":[2],"data_offsets":[0,4]}}   ';
    const expected = new Uint8Array([
      88,
      0,
      0,
      0,
      0,
      0,
      0,
      0,
      ...new TextEncoder().encode(header),
      1,
      0,
      0xfe,
      0xff,
    ]);
    expect(header.length).toBe(88);
    expect(bytes).toEqual(expected);
  });

  test('a file without tensors is one', async () => {
    const file = await openSafetensors(bufferSource(encodeSafetensors([])));
    expect(file.tensors.size).toBe(0);
    expect(file.metadata).toEqual({});
  });
});

describe('rejections', () => {
  const one = { x: entry('F32', [2], 0, 8) };
  const cases: [what: string, code: string, bytes: Uint8Array, message: RegExp][] = [
    ['an empty file', 'TRUNCATED', new Uint8Array(0), /0 bytes/],
    ['a file shorter than its length field', 'TRUNCATED', new Uint8Array(7), /7 bytes/],
    ['a header that is cut off', 'TRUNCATED', fileOf(one, 8).slice(0, 30), /incomplete/],
    ['tensors that are cut off', 'TRUNCATED', fileOf(one, 7), /incomplete/],
    [
      'a second tensor that is cut off',
      'TRUNCATED',
      fileOf({ ...one, y: entry('F32', [2], 8, 16) }, 8),
      /incomplete/,
    ],
    [
      'a header over the cap',
      'HEADER_TOO_LARGE',
      Uint8Array.of(1, 0xe1, 0xf5, 5, 0, 0, 0, 0),
      /100000001 bytes, but at most 100000000/,
    ],
    [
      'a file of another kind',
      'HEADER_TOO_LARGE',
      new TextEncoder().encode('version https://git-lfs'),
      /safetensors/,
    ],
    ['text that is not JSON', 'HEADER_NOT_JSON', fileOf('{"x":}'), /not JSON/],
    [
      'bytes that are not UTF-8',
      'HEADER_NOT_JSON',
      fileOfBytes(Uint8Array.of(0x7b, 0xff)),
      /UTF-8/,
    ],
    ['an empty header', 'HEADER_NOT_JSON', fileOf(''), /not JSON/],
    ['a byte order mark', 'HEADER_NOT_JSON', fileOf('\uFEFF{}'), /not JSON/],
    ['an array as header', 'HEADER_NOT_OBJECT', fileOf([]), /JSON object/],
    ['null as header', 'HEADER_NOT_OBJECT', fileOf('null'), /JSON object/],
    ['white space before the header', 'HEADER_NOT_OBJECT', fileOf(' {}'), /begins with "{"/],
    ['an entry that is a number', 'HEADER_INVALID', fileOf({ x: 1 }), /"x".*must be an object/],
    ['an entry that is null', 'HEADER_INVALID', fileOf({ x: null }), /"x".*must be an object/],
    ['an entry that is an array', 'HEADER_INVALID', fileOf({ x: [] }), /"x".*not an array/],
    [
      'a field nested too deep',
      'HEADER_INVALID',
      fileOf({ x: { ...one.x, shape: [[2]] } }, 8),
      /"shape" of tensor "x"/,
    ],
    ['no dtype', 'HEADER_INVALID', fileOf({ x: { shape: [], data_offsets: [0, 0] } }), /dtype/],
    ['metadata that is no object', 'HEADER_INVALID', fileOf({ __metadata__: 'a' }), /__metadata__/],
    [
      'metadata that is not of strings',
      'HEADER_INVALID',
      fileOf({ __metadata__: { epochs: 3 } }),
      /"epochs".*string/,
    ],
    ['an unknown dtype', 'DTYPE_UNKNOWN', fileOf({ x: entry('F8_E4M3', [8], 0, 8) }, 8), /F8_E4M3/],
    [
      'a dtype that is a property of every object',
      'DTYPE_UNKNOWN',
      fileOf({ x: entry('toString', [8], 0, 8) }, 8),
      /toString/,
    ],
    ['no shape', 'SHAPE_INVALID', fileOf({ x: { dtype: 'F32', data_offsets: [0, 0] } }), /nothing/],
    ['a shape that is a number', 'SHAPE_INVALID', fileOf({ x: entry('F32', 2, 0, 8) }, 8), /shape/],
    ['a fraction', 'SHAPE_INVALID', fileOf({ x: entry('F32', [0.5, 4], 0, 8) }, 8), /0\.5,4/],
    ['a negative', 'SHAPE_INVALID', fileOf({ x: entry('F32', [-1, -2], 0, 8) }, 8), /-1,-2/],
    ['an unsafe integer', 'SHAPE_INVALID', fileOf({ x: entry('U8', [2 ** 53, 0], 0, 0) }), /shape/],
    ['a string', 'SHAPE_INVALID', fileOf({ x: entry('F32', ['2'], 0, 8) }, 8), /shape/],
    [
      'a product that is unsafe',
      'SHAPE_INVALID',
      fileOf({ x: entry('U8', [2 ** 30, 2 ** 30], 0, 8) }, 8),
      /more elements/,
    ],
    [
      'no offsets',
      'OFFSETS_INVALID',
      fileOf({ x: { dtype: 'F32', shape: [2] } }, 8),
      /data_offsets/,
    ],
    [
      'one offset',
      'OFFSETS_INVALID',
      fileOf({ x: { ...one.x, data_offsets: [0] } }, 8),
      /two integers/,
    ],
    ['a negative offset', 'OFFSETS_INVALID', fileOf({ x: entry('F32', [2], -8, 0) }, 8), /-8,0/],
    ['a fractional offset', 'OFFSETS_INVALID', fileOf({ x: entry('F32', [2], 0.5, 8) }, 8), /0\.5/],
    [
      'offsets that end before they begin',
      'OFFSETS_OUT_OF_RANGE',
      fileOf({ x: entry('F32', [2], 8, 0) }, 8),
      /end before they begin/,
    ],
    [
      'offsets beyond the file',
      'OFFSETS_OUT_OF_RANGE',
      fileOf({ x: entry('F32', [2], 0, 16) }, 8),
      /beyond the 8 bytes/,
    ],
    [
      'offsets far beyond the file',
      'OFFSETS_OUT_OF_RANGE',
      fileOf({ ...one, y: entry('F32', [2], 800, 808) }, 16),
      /"y".*beyond the 16 bytes/,
    ],
    [
      'overlapping tensors',
      'OFFSETS_OVERLAP',
      fileOf({ ...one, y: entry('F32', [2], 4, 12) }, 12),
      /"y".*overlap.*"x"/,
    ],
    [
      'two tensors on the same bytes',
      'OFFSETS_OVERLAP',
      fileOf({ ...one, y: entry('F32', [2], 0, 8) }, 8),
      /overlap/,
    ],
    [
      'a gap at the beginning',
      'OFFSETS_GAP',
      fileOf({ x: entry('F32', [1], 4, 8) }, 8),
      /should begin at 0/,
    ],
    [
      'a gap between tensors',
      'OFFSETS_GAP',
      fileOf({ ...one, y: entry('F32', [1], 12, 16) }, 16),
      /should begin at 8/,
    ],
    ['bytes after the last tensor', 'OFFSETS_GAP', fileOf(one, 9), /last 1 bytes/],
    [
      'a shape that does not fit its bytes',
      'SHAPE_MISMATCH',
      fileOf({ x: entry('F32', [3], 0, 8) }, 8),
      /\[3\] of F32 takes 12 bytes.*hold 8/,
    ],
    [
      'a tensor named twice',
      'DUPLICATE_NAME',
      fileOf(`{"x":${JSON.stringify(one.x)},"\\u0078":${JSON.stringify(one.x)}}`, 8),
      /tensor "x" twice/,
    ],
    [
      'metadata given twice',
      'DUPLICATE_NAME',
      fileOf('{"__metadata__":{},"__metadata__":{}}'),
      /__metadata__ twice/,
    ],
    [
      'a metadata field given twice',
      'DUPLICATE_NAME',
      fileOf('{"__metadata__":{"a":"1","a":"2"}}'),
      /"a" of __metadata__ twice/,
    ],
    ...['dtype', 'shape', 'data_offsets'].map((field): [string, string, Uint8Array, RegExp] => [
      `${field} given twice`,
      'DUPLICATE_NAME',
      fileOf(`{"x":{"${field}":0,${JSON.stringify(one.x).slice(1)}}`, 8),
      new RegExp(`"${field}" of tensor "x" twice`),
    ]),
  ];

  test.each(cases)('%s: SAFETENSORS_%s', async (_what, code, bytes, message) => {
    const error = await openSafetensors(watchedSource(bytes)).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(D2DMoEError);
    expect(error).toMatchObject({ code: `SAFETENSORS_${code}` });
    expect((error as D2DMoEError).message).toMatch(message);
    expect((error as D2DMoEError).message).toMatch(/^watched: /);
  });

  test('a rejected source is closed', async () => {
    let closed = 0;
    const source = { ...bufferSource(new Uint8Array(3)), close: async () => void closed++ };
    await expect(openSafetensors(source)).rejects.toThrow(D2DMoEError);
    expect(closed).toBe(1);
  });

  test('a very long name does not fill the message', async () => {
    const bytes = fileOf({ ['n'.repeat(1_000_000)]: 1 });
    const error = await openSafetensors(bufferSource(bytes)).catch((error: unknown) => error);
    expect((error as D2DMoEError).message.length).toBeLessThan(400);
  });
});

describe('a mutated file gives a D2DMoEError or a sound reading', () => {
  /** Reads everything; answers `sound` or the code of the D2DMoEError; whatever else happens is thrown. */
  async function readAll(bytes: Uint8Array): Promise<string> {
    const source = watchedSource(bytes);
    try {
      const file = await openSafetensors(source);
      for (const { name, dtype, shape, begin, end } of file.tensors.values()) {
        expect((await file.read(name)).length).toBe(end - begin);
        expect(end - begin).toBe(shape.reduce((a, b) => a * b, 1) * DTYPE_BYTES[dtype]);
        await file.readFloat32(name);
        await file.readInt32(name);
      }
      return 'sound';
    } catch (error) {
      // The source's own RangeError would come wrapped.
      if (!(error instanceof D2DMoEError) || error.cause instanceof RangeError) {
        throw error;
      }
      return error.code;
    }
  }

  const outcome = /^sound$|^SAFETENSORS_(?!READ_FAILED)/;

  test('after bytes were changed', async () => {
    const edits = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1 });
    await fc.assert(
      fc.asyncProperty(tensorsArbitrary, edits, async (tensors, edits) => {
        const bytes = encodeSafetensors(tensors);
        for (const [position, value] of edits) {
          bytes[position % bytes.length] = value;
        }
        expect(await readAll(bytes)).toMatch(outcome);
      }),
      { numRuns: 1000 },
    );
  });

  test('after single bits of the header were flipped', async () => {
    await fc.assert(
      fc.asyncProperty(tensorsArbitrary, fc.nat(), fc.nat(7), async (tensors, position, bit) => {
        const bytes = encodeSafetensors(tensors);
        const headerEnd = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
        const index = position % headerEnd;
        bytes[index] = (bytes[index] as number) ^ (1 << bit);
        expect(await readAll(bytes)).toMatch(outcome);
      }),
      { numRuns: 1000 },
    );
  });

  test('after its end was cut off or something was appended', async () => {
    await fc.assert(
      fc.asyncProperty(
        tensorsArbitrary,
        fc.nat(),
        fc.uint8Array({ maxLength: 20 }),
        async (tensors, keep, tail) => {
          const bytes = encodeSafetensors(tensors);
          expect(
            await readAll(new Uint8Array([...bytes.slice(0, keep % (bytes.length + 1)), ...tail])),
          ).toMatch(outcome);
        },
      ),
      { numRuns: 500 },
    );
  });

  test('after values of the JSON were replaced', async () => {
    const number = fc.oneof(fc.integer({ min: -9, max: 64 }), fc.double(), fc.maxSafeInteger());
    const value = fc.oneof(number, fc.array(number, { maxLength: 3 }), fc.jsonValue());
    const field = fc.constantFrom('dtype', 'shape', 'data_offsets', 'extra');
    const edits = fc.array(fc.tuple(fc.nat(), field, value), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(tensorsArbitrary, edits, async (tensors, edits) => {
        const bytes = encodeSafetensors(tensors);
        const headerEnd = 8 + Number(new DataView(bytes.buffer).getBigUint64(0, true));
        const header = JSON.parse(new TextDecoder().decode(bytes.slice(8, headerEnd))) as Record<
          string,
          Record<string, unknown>
        >;
        const names = Object.keys(header);
        for (const [which, field, value] of edits) {
          const target = header[names[which % names.length] ?? ''];
          if (target !== undefined) {
            target[field] = value;
          }
        }
        expect(await readAll(fileOf(header, bytes.length - headerEnd))).toMatch(outcome);
      }),
      { numRuns: 1000 },
    );
  });

  test('when the header is any JSON', async () => {
    await fc.assert(
      fc.asyncProperty(fc.json(), fc.nat(32), async (header, size) => {
        expect(await readAll(fileOf(header, size))).toMatch(outcome);
      }),
      { numRuns: 500 },
    );
  });
});

describe('reading', () => {
  /** A file of 5 GB that exists only as far as it is read. */
  function hugeSource() {
    const rows = 1_250_000_000;
    const head = fileOf({
      embedding: entry('F32', [rows], 0, rows * 4),
      last: entry('I16', [2], rows * 4, rows * 4 + 4),
    });
    let bytesRead = 0;
    const source: ByteSource = {
      name: 'huge',
      size: head.length + rows * 4 + 4,
      async read(begin, end) {
        bytesRead += end - begin;
        const bytes = new Uint8Array(end - begin);
        bytes.set(head.subarray(begin, end));
        return bytes;
      },
    };
    return { source, head, bytesRead: () => bytesRead };
  }

  test('opening 5 GB costs the header, a tensor its own bytes', async () => {
    const { source, head, bytesRead } = hugeSource();
    const file = await openSafetensors(source);
    expect(source.size).toBeGreaterThan(5e9);
    expect(bytesRead()).toBe(head.length);
    expect(await file.readInt32('last')).toEqual(Int32Array.of(0, 0));
    expect(bytesRead()).toBe(head.length + 4);
  });

  test('the header of ten thousand tensors opens in well under a second', async () => {
    const tensors = Array.from({ length: 10_000 }, (_, i) => ({
      name: `model.layers.${i}.mlp.down_proj.weight`,
      dtype: 'F32' as const,
      shape: [1],
      data: Float32Array.of(i),
    }));
    const bytes = encodeSafetensors(tensors);
    const begin = performance.now();
    const file = await openSafetensors(bufferSource(bytes));
    expect(performance.now() - begin).toBeLessThan(1000);
    expect(await file.readFloat32('model.layers.77.mlp.down_proj.weight')).toEqual(
      Float32Array.of(77),
    );
  });

  async function reopen(dtype: Dtype, data: TensorData) {
    return openSafetensors(
      bufferSource(encodeSafetensors([{ name: 'x', dtype, shape: [data.length], data }]), 'file'),
    );
  }

  const conversions: [Dtype, TensorData, number[]][] = [
    ['F64', Float64Array.of(0.1, 1e300, -2), [Math.fround(0.1), Infinity, -2]],
    ['F64', Float32Array.of(0.1), [Math.fround(0.1)]],
    ['F32', Float32Array.of(0.1, -0), [Math.fround(0.1), -0]],
    ['F16', Uint16Array.of(0x3c00, 0x0001), [1, 2 ** -24]],
    ['F16', Float32Array.of(1 + 2 ** -11, 1 + 3 * 2 ** -11), [1, 1 + 2 ** -9]],
    ['BF16', Uint16Array.of(0x3f80, 0xc000), [1, -2]],
    ['BF16', Float32Array.of(1 + 2 ** -8, 1 + 3 * 2 ** -8), [1, 1 + 2 ** -6]],
    ['I64', BigInt64Array.of(-5n, 2n ** 40n), [-5, 2 ** 40]],
    ['I64', Int32Array.of(-5, 7), [-5, 7]],
    ['I32', Int32Array.of(-(2 ** 31), 2 ** 24), [-(2 ** 31), 2 ** 24]],
    ['I16', Int16Array.of(-300, 300), [-300, 300]],
    ['I8', Int8Array.of(-128, 127), [-128, 127]],
    ['U8', Uint8Array.of(0, 255), [0, 255]],
    ['BOOL', Uint8Array.of(0, 1, 2), [0, 1, 1]],
  ];

  test.each(conversions)('%s reads as float32 by value (%s)', async (dtype, data, expected) => {
    const values = await (await reopen(dtype, data)).readFloat32('x');
    expect(values).toBeInstanceOf(Float32Array);
    expect([...values]).toEqual(expected);
  });

  test.each(conversions.filter(([dtype]) => !dtype.includes('F') && dtype !== 'I64'))(
    '%s reads as int32 by value (%s)',
    async (dtype, data, expected) => {
      const values = await (await reopen(dtype, data)).readInt32('x');
      expect(values).toBeInstanceOf(Int32Array);
      expect([...values]).toEqual(expected);
    },
  );

  test('I64 reads as int32 within its range and is refused beyond it', async () => {
    const edges = await reopen('I64', BigInt64Array.of(-(2n ** 31n), 2n ** 31n - 1n));
    expect([...(await edges.readInt32('x'))]).toEqual([-(2 ** 31), 2 ** 31 - 1]);
    for (const value of [2n ** 31n, -(2n ** 31n) - 1n, 2n ** 32n]) {
      const file = await reopen('I64', BigInt64Array.of(0n, value));
      await expect(file.readInt32('x')).rejects.toMatchObject({
        code: 'SAFETENSORS_VALUE_OUT_OF_RANGE',
        message: expect.stringContaining(`file: tensor "x": element 1 is ${value}`),
      });
    }
  });

  test('integers that float32 cannot hold exactly are refused', async () => {
    const code = 'SAFETENSORS_VALUE_OUT_OF_RANGE';
    const i32 = await reopen('I32', Int32Array.of(1, 2 ** 24 + 1));
    await expect(i32.readFloat32('x')).rejects.toMatchObject({ code });
    const i64 = await reopen('I64', BigInt64Array.of(1n, 2n ** 53n + 1n));
    await expect(i64.readFloat32('x')).rejects.toMatchObject({ code });
  });

  test('floating-point tensors are not read as integers', async () => {
    for (const dtype of ['F64', 'F32', 'F16', 'BF16'] as const) {
      const file = await reopen(dtype, Float32Array.of(1));
      await expect(file.readInt32('x')).rejects.toMatchObject({
        code: 'SAFETENSORS_DTYPE_MISMATCH',
      });
    }
  });

  test('an unknown name is refused by name', async () => {
    const file = await reopen('U8', Uint8Array.of(1));
    for (const read of [file.read('y'), file.readFloat32('y'), file.readInt32('toString')]) {
      await expect(read).rejects.toMatchObject({ code: 'SAFETENSORS_TENSOR_MISSING' });
    }
  });

  test('what is read is a copy', async () => {
    const bytes = encodeSafetensors([
      { name: 'x', dtype: 'F32', shape: [1], data: Float32Array.of(1) },
    ]);
    const file = await openSafetensors(bufferSource(bytes));
    (await file.read('x')).fill(9);
    (await file.readFloat32('x')).fill(9);
    expect(await file.readFloat32('x')).toEqual(Float32Array.of(1));
  });

  test('bytes that a source returns unaligned are converted all the same', async () => {
    const bytes = encodeSafetensors([
      { name: 'x', dtype: 'F64', shape: [2], data: Float64Array.of(1, 2) },
    ]);
    const source = bufferSource(bytes);
    const read = async (begin: number, end: number) => {
      const shifted = new Uint8Array(end - begin + 3);
      shifted.set(bytes.slice(begin, end), 3);
      return shifted.subarray(3);
    };
    const file = await openSafetensors({ ...source, read });
    expect(await file.readFloat32('x')).toEqual(Float32Array.of(1, 2));
  });

  test('a source that fails or comes up short is reported with file and tensor', async () => {
    const bytes = encodeSafetensors([
      { name: 'x', dtype: 'F32', shape: [4], data: new Float32Array(4) },
    ]);
    let fault: 'none' | 'short' | 'throw' = 'none';
    const file = await openSafetensors({
      name: 'flaky',
      size: bytes.length,
      async read(begin, end) {
        if (fault === 'throw') {
          throw new Error('cable cut');
        }
        return bytes.slice(begin, fault === 'short' ? end - 1 : end);
      },
    });
    fault = 'short';
    await expect(file.read('x')).rejects.toMatchObject({
      code: 'SAFETENSORS_TRUNCATED',
      message: expect.stringMatching(/^flaky: tensor "x" .*only 15 of its 16/),
    });
    fault = 'throw';
    await expect(file.read('x')).rejects.toMatchObject({
      code: 'SAFETENSORS_READ_FAILED',
      message: expect.stringMatching(/^flaky: tensor "x" .*cable cut/),
    });
  });
});

describe('files that PyTorch wrote', () => {
  const fixture = async (path: string) =>
    openSafetensors(
      bufferSource(
        await readFile(new URL(`../../../tools/fixtures/${path}`, import.meta.url)),
        path,
      ),
    );

  test('the weights of a tiny BERT', async () => {
    const file = await fixture('tiny-bert/model.safetensors');
    const embedding =
      file.tensors.get('embeddings.word_embeddings.weight') ??
      file.tensors.get('bert.embeddings.word_embeddings.weight');
    expect(embedding).toMatchObject({ dtype: 'F32' });
    const values = await file.readFloat32(embedding?.name ?? '');
    expect(values.length).toBe(embedding?.shape.reduce((a, b) => a * b, 1));
    expect(values.every(Number.isFinite)).toBe(true);
    expect(values.some((value) => value !== 0)).toBe(true);
  });

  test('the recorded tensors of the method', async () => {
    const file = await fixture('method.safetensors');
    expect(file.tensors.size).toBeGreaterThan(0);
    for (const { name, shape } of file.tensors.values()) {
      expect((await file.readFloat32(name)).length).toBe(shape.reduce((a, b) => a * b, 1));
    }
  });
});
