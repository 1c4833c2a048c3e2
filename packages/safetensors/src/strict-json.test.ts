import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { findJsonFault } from './strict-json.js';

test('JSON of any kind without repeated keys has no fault', () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      expect(findJsonFault(JSON.stringify(JSON.parse(text), null, 1))).toBeUndefined();
    }),
  );
});

test('a repeated key is found wherever it is and however it is written', () => {
  const key = fc.string({ unit: 'grapheme' });
  fc.assert(
    fc.property(fc.array(key, { maxLength: 3 }), key, fc.jsonValue(), (outer, key, between) => {
      const escaped = [...JSON.parse(JSON.stringify(key))]
        .flatMap((character: string) => character.split(''))
        .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`)
        .join('');
      const inner = `{${JSON.stringify(key)}: ${JSON.stringify({ between })}, "${escaped}"\n:1}`;
      const text = outer.reduceRight((json, name) => `{${JSON.stringify(name)}:${json}}`, inner);
      expect(findJsonFault(text)).toEqual({ kind: 'duplicate', path: [...outer, key] });
    }),
  );
});

test('the same key in two objects, and the same string as value, are no duplicates', () => {
  expect(findJsonFault('{"a":{"b":"a"},"b":{"b":["b","b"]},"c":"a"}')).toBeUndefined();
});

test('brackets must be those that the nesting allows', () => {
  expect(findJsonFault('{"a":{"b":[1,2]}}', '{{[')).toBeUndefined();
  expect(findJsonFault('{"a":[]}', '{{[')).toEqual({ kind: 'nesting', path: ['a'] });
  expect(findJsonFault('{"a":{"b":{}}}', '{{[')).toEqual({ kind: 'nesting', path: ['a', 'b'] });
  expect(findJsonFault('{"a":{"b":[[', '{{[')).toMatchObject({ kind: 'nesting' });
  expect(findJsonFault('{"{[":"[{"}', '{{[')).toBeUndefined();
});

test('text that is not JSON neither throws nor hangs', () => {
  fc.assert(
    fc.property(
      fc.string({ unit: fc.constantFrom('{', '}', '[', ']', '"', ':', ',', '\\', 'a') }),
      (text) => {
        expect(() => findJsonFault(text)).not.toThrow();
      },
    ),
  );
});
