import { expect, test } from 'vitest';
import {
  denseProductSource,
  type ExpertShape,
  expertHiddenSource,
  expertOutputSource,
  fewHiddenSource,
  fewOutputSource,
  foundPairs,
  foundTiles,
  foundTilesBytes,
  listRowsSource,
  MOST_FOUND_ROWS,
  packWeightsSource,
  selectExpertsSource,
  sumPairsSource,
  sumRowsSource,
  type Tile,
  tileBytes,
  type TileSizes,
  tileRowsSource,
  tileThreads,
} from '../../../kernels/webgpu/index.js';
import { LEAST_WORKGROUP_BYTES, tilingOf } from './many-plan.js';

const plain: ExpertShape = {
  dIn: 64,
  dOut: 48,
  experts: 8,
  expertSize: 32,
  activation: 'relu',
  gated: false,
  storage: 'float32',
};
/** Everything that a shape can ask for more: odd widths, a gate, half the bytes. */
const odd: ExpertShape = {
  dIn: 13,
  dOut: 11,
  experts: 7,
  expertSize: 6,
  activation: 'gelu',
  gated: true,
  storage: 'float16',
};
const tile: Tile = { rows: 16, columns: 16, depth: 8, threadRows: 4, threadColumns: 4, split: 1 };

const sizes: TileSizes = {
  experts: 24,
  tileRows: 64,
};

const sources: Record<string, string> = {
  'select threshold': selectExpertsSource('threshold', 24),
  'select topK': selectExpertsSource('topK', 24),
  'select cumulativeShare': selectExpertsSource('cumulativeShare', 24),
  'list rows': listRowsSource(24),
  'tile rows': tileRowsSource(sizes),
  'expert hidden': expertHiddenSource(plain, tile),
  'expert hidden, odd': expertHiddenSource(odd, tile),
  'expert output': expertOutputSource(plain, tile),
  'expert output, odd': expertOutputSource(odd, tile),
  'expert hidden, found rows': expertHiddenSource(plain, tile, foundTiles),
  'expert output, found rows': expertOutputSource(odd, tile, foundPairs),
  'expert hidden, split': expertHiddenSource(odd, { ...tile, depth: 16, split: 2 }, foundTiles),
  'expert output, split': expertOutputSource(plain, { ...tile, split: 4 }),
  'sum rows': sumRowsSource(48, 8),
  'sum rows, odd': sumRowsSource(11, 40),
  'sum pairs': sumPairsSource(48, 8),
  'sum pairs, odd': sumPairsSource(11, 7),
  'few hidden': fewHiddenSource(plain, 1),
  'few hidden, odd': fewHiddenSource(odd, 2),
  'few hidden, wide': fewHiddenSource({ ...plain, dIn: 256 }, 1),
  'few hidden, subgroups': fewHiddenSource(plain, 1, 32),
  'tile rows, subgroups': tileRowsSource(sizes, 32),
  'few output': fewOutputSource(plain, 1),
  'few output, odd': fewOutputSource(odd, 2),
  'dense up': denseProductSource(
    { inner: 64, columns: 256, activation: 'relu', storage: 'float32' },
    tile,
  ),
  'dense down': denseProductSource({ inner: 256, columns: 48, storage: 'float32' }, tile),
  'pack weights': packWeightsSource(13, 'float32'),
  'pack weights, float16': packWeightsSource(13, 'float16'),
};

test.each(Object.entries(sources))('%s', (_, source) => {
  expect(source).toMatchSnapshot();
});

test.each([LEAST_WORKGROUP_BYTES, 32_768])(
  'tiles stay within what an adapter has: %i bytes',
  (bytes) => {
    for (const expertSize of [1, 4, 6, 32, 128, 200]) {
      for (const gated of [false, true]) {
        for (const rows of [9, 197, 6304, 50_432]) {
          for (const dOut of [11, 768]) {
            const shape = { ...plain, expertSize, gated, dOut };
            const { hidden, output } = tilingOf(shape, rows, 0.4, bytes);
            expect(hidden.rows).toBe(output.rows);
            const found = rows <= MOST_FOUND_ROWS ? foundTilesBytes(hidden) : 0;
            expect(tileBytes(hidden, gated ? 2 : 1) + found).toBeLessThanOrEqual(bytes);
            expect(tileBytes(output, 1) + found).toBeLessThanOrEqual(bytes);
            for (const { columns, threadColumns, threadRows, depth, split, rows: tileRows } of [
              hidden,
              output,
            ]) {
              expect([columns % threadColumns, tileRows % threadRows, depth % 4]).toEqual([
                0, 0, 0,
              ]);
              expect([depth % split, threadRows % split]).toEqual([0, 0]);
            }
            expect(Math.max(tileThreads(hidden), tileThreads(output))).toBeLessThanOrEqual(256);
          }
        }
      }
    }
  },
);
