import * as tf from '@tensorflow/tfjs-core';
import { afterEach, beforeAll, expect, test, vi } from 'vitest';
import { onAdapter, start } from '../testing/adapter.js';
import { bitsOf, greatestError, type Shape } from '../testing/experts.js';
import { limitBindings } from './limits.js';
import { type Tiling, tilingOf } from './many-plan.js';
import { openBackend } from './open-backend.js';

vi.mock('./many-plan.js', { spy: true });

const shape: Shape = {
  dIn: 70,
  dOut: 132,
  experts: 5,
  expertSize: 64,
  activation: 'gelu',
  gated: false,
  biases: true,
  density: 0.5,
  seed: 8,
};

function tile(text: string, threadRows = 4, threadColumns = 4) {
  const [rows = 0, columns = 0, depth = 0, split = 0] = text.match(/\d+/g)?.map(Number) ?? [];
  return { rows, columns, depth, threadRows, threadColumns, split };
}

const plainHidden = tile('32x64 d16 s1');
const plainOutput = tile('32x64 d16 s1');

const tilings: Record<string, Tiling> = Object.fromEntries([
  ...[
    '32x64 d32 s2',
    '32x32 d32 s4',
    '32x32 d32 s2',
    '32x64 d16 s2',
    '64x32 d32 s2',
    '16x64 d32 s4',
  ].map((hidden) => [`hidden ${hidden}`, { hidden: tile(hidden), output: plainOutput }]),
  ...[
    tile('32x128 d16 s1', 4, 8),
    tile('32x64 d32 s2'),
    tile('64x64 d16 s1', 8, 4),
    tile('64x64 d16 s2', 8, 4),
    tile('64x64 d16 s2', 8, 8),
  ].map((output) => [`output ${Object.values(output).join()}`, { hidden: plainHidden, output }]),
]);

onAdapter('the expert op’s tiles on WebGPU', () => {
  beforeAll(start);
  afterEach(() => {
    vi.mocked(tilingOf).mockReset();
  });

  test.each(Object.entries(tilings))(
    'gives the float64 reference’s result in tiles of %s',
    async (_, tiling) => {
      vi.mocked(tilingOf).mockReturnValue(tiling);
      expect(await greatestError(shape, { allRows: [9, 197] })).toBeLessThanOrEqual(1e-5);
      // A workgroup has several tiles of its expert.
      const loops = await greatestError(shape, { allRows: [300], expectedDensity: 0 });
      expect(loops).toBeLessThanOrEqual(1e-5);
      expect(vi.mocked(tilingOf)).toHaveBeenCalledTimes(3);
    },
    120_000,
  );

  test('adds up the groups of a gated FFN', async () => {
    const gated = { ...shape, gated: true };
    for (const split of [2, 4]) {
      const hidden = { ...tile('32x32 d32'), split };
      vi.mocked(tilingOf).mockReturnValue({ hidden, output: plainOutput });
      const error = await greatestError(gated, { storage: 'float16', allRows: [40] });
      expect(error).toBeLessThanOrEqual(2e-3);
      expect(await greatestError(gated, { allRows: [40] })).toBeLessThanOrEqual(1e-5);
    }
  }, 120_000);

  test('gives the same bits whether rows are listed or found', async () => {
    const { device } = openBackend(tf.backend());
    const rows = 300;
    const { run, dispose } = bitsOf(shape, rows);
    // Too little for the places of all pairs, enough for all rows.
    limitBindings(device, 400_000);
    const listed = await run(0.5).finally(() => limitBindings(device, undefined));
    const found = [await run(0), await run(0.5), await run(1)];
    expect(found.map((bits) => bits.equals(listed))).toEqual([true, true, true]);
    dispose();
  }, 120_000);
});
