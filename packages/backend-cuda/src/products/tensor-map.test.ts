import { expect, test } from 'vitest';
import { emulated } from '../../testing/emulated.js';
import { tensorMapsOf } from './tensor-map.js';

emulated('tensor maps', (cuda) => {
  const matrix = { length: 64, lines: 8, matrices: 1, stride: 512, boxLength: 64, boxLines: 8 };
  const at = (index: number) => ({ ...matrix, pointer: 0x10000 + 1024 * index });

  test('a matrix has the map that it had before, and another one its own', () => {
    const maps = tensorMapsOf(cuda());
    const first = maps.encode(at(0));
    expect(maps.encode(at(0))).toBe(first);
    expect(maps.encode({ ...at(0), boxLines: 4 })).not.toEqual(first);
    expect(maps.encode({ ...at(0), pitch: 128, stride: 1024 })).not.toEqual(first);
    expect(maps.encode({ ...at(0), boxMatrices: 1, pitch: 64 })).toBe(first);
    for (let i = 1; i < 600; i++) expect(maps.encode(at(i))).not.toEqual(first);
    // Only so many are kept, and the next one of the first matrix is the same again.
    expect(maps.encode(at(599))).toBe(maps.encode(at(599)));
    expect(maps.encode(at(0))).not.toBe(first);
    expect(maps.encode(at(0))).toEqual(first);
  });
});
