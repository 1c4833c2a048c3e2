import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { byteTokenizer } from '../testing/byte-tokenizer.js';
import { temporaryFolder } from '../testing/folder.js';
import { TextStream } from './text-stream.js';
import { loadTokenizer } from './tokenizer.js';

async function load() {
  const folder = temporaryFolder();
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(byteTokenizer()));
  return loadTokenizer(folder);
}

test('a character comes out whole, when its last byte is there', async () => {
  const stream = new TextStream(await load());
  const pieces = [...Buffer.from('a€b😀')].map((byte) => stream.push(byte));
  expect(pieces).toEqual(['a', '', '', '€', 'b', '', '', '', '😀']);
  expect(stream.end()).toBe('');
});

test('what never completes comes out as replacement characters', async () => {
  const stream = new TextStream(await load());
  expect(stream.push(0x78)).toBe('x');
  expect(stream.push(0xe2)).toBe('');
  expect(stream.push(0x28)).toBe('\uFFFD(');
  expect(stream.push(0xf0)).toBe('');
  expect(stream.end()).toBe('\uFFFD');
});

test('spaces before punctuation stay, which the decoding of whole texts cleans up', async () => {
  const tokenizer = await load();
  const ids = [...Buffer.from("f ( a , b ) . it 's")];
  const stream = new TextStream(tokenizer, [...Buffer.from('def ')]);
  const text = ids.map((id) => stream.push(id)).join('') + stream.end();
  expect(text).toBe("f ( a , b ) . it 's");
  expect(tokenizer.decode(ids)).not.toBe(text);
});

test('the pieces of any bytes join to the decoded whole', async () => {
  const tokenizer = await load();
  const text = fc.string({ unit: 'binary' }).map((s) => [...Buffer.from(s)]);
  const noise = fc.uint8Array({ maxLength: 20 }).map((bytes) => [...bytes]);
  fc.assert(
    fc.property(fc.array(fc.oneof(text, noise), { maxLength: 4 }), (parts) => {
      const ids = parts.flat();
      const stream = new TextStream(tokenizer);
      const joined = ids.map((id) => stream.push(id)).join('') + stream.end();
      expect(joined).toBe(
        new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(ids)),
      );
    }),
  );
});
