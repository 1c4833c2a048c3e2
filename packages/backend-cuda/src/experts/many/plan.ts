import { anyOf, type ExpertsCall, plannedDensity, promisedDensity } from '../call.js';
import { hundredsFits } from './hundreds.js';
import { NARROW_UNIT, narrowFits } from './narrow.js';
import { groupsOf, MOST_ADDED, type Pools, segmentsOf, type Units, unitsOf } from './units.js';

/**
 * How the many-rows path does a call: in one launch, with a row's result in registers, as a masked dense layer, or
 * segment by segment.
 */
export type ManyPlan =
  | { readonly kind: 'hundreds' }
  | {
      readonly kind: 'narrow';
      /** Whether rows that run the same are put together. */
      readonly isOrdered: boolean;
    }
  | { readonly kind: 'masked' }
  | {
      readonly kind: 'segments';
      readonly units: Units;
      readonly pools: Pools;
      /** Whether segments are added to the output as they come, in any order, or kept apart and added up in theirs. */
      readonly isAdded: boolean;
      /** Whether only segments of a row are kinds of their own, whose results are stored with the bias and not added. */
      readonly hasOnlyKinds: boolean;
      /** Whether down's columns are first put in the order in which results need no exchange between lanes. */
      readonly isInterleaved: boolean;
    };

/** Most rows that go through the single launch: beyond them the card is full anyway. */
const MOST_HUNDREDS = 512;
/** Rows of a tile. */
const TILE_ROWS = 128;
/** Most kinds of segments: their counts lie in shared memory. */
const MOST_KINDS = 6000;
/** Multiprocessors to a tile of a narrow layer, at most: with more of them idle, smaller pieces of work are faster. */
const MOST_IDLE = 2;
/** The share of units run up to which putting rows in order takes less than it saves. */
const MOST_ORDERED = 0.9;
/** Segments of a row, expected, up to which only ones are kinds of their own. */
const MOST_ONLY_SEGMENTS = 1.5;

/** Rows of a kind of pairs, for each neuron of a unit, below which four pools are faster than two. */
const POOLED_ROWS = 7;
/** Units for which four pools are, of at most 32 each. */
const LEAST_POOLED = 16;
const MOST_POOLED = 4 * 32;

/** Neurons of the layer to a tile up to which putting down's columns in order takes less than it saves. */
const MOST_INTERLEAVED = 13;

// Costs in the time of one tile's products with 128 neurons (128 rows, both matrices) at a dense layer's rate; measured
// on an H200, experts-many.md has the figures.
/** A masked dense layer's products. */
const MASKED = 1.05;
/** Columns of the masked kernels' tiles. */
const MASKED_COLUMNS = 256;
/** Segments: their products, each 128 neurons wide; what a tile costs beside its products. */
const SEGMENT = 0.93;
const TILE = 1;
/** Results kept apart: a tile's part of the pass that adds them up, beyond what adding them at once costs. */
const APART = 0.6;
/** A tile's rows filled with the bias, where results are added to them. */
const FILL = 0.6;
/** Grouping, for each multiprocessor. */
const GROUPING = 3;

/**
 * The cheapest way to do a call, by its shape and expected density alone.
 *
 * @param isRepeatable Whether equal calls must give equal bits.
 */
export function planMany(
  call: Pick<
    ExpertsCall,
    'rows' | 'dIn' | 'dOut' | 'experts' | 'expertSize' | 'density' | 'gate' | 'storage'
  >,
  multiprocessors: number,
  isRepeatable: boolean,
): ManyPlan {
  const { rows, dIn, dOut, experts, expertSize, gate, storage } = call;
  if (rows <= MOST_HUNDREDS && hundredsFits(call)) return { kind: 'hundreds' };
  const density = plannedDensity(call);
  const tilesOfRows = Math.ceil(rows / TILE_ROWS);
  if (narrowPays(call, multiprocessors)) {
    // Where every multiprocessor has one tile, the one that runs the most decides, in any order.
    const perUnit = Math.max(1, NARROW_UNIT / expertSize);
    const isOrdered = tilesOfRows > multiprocessors && anyOf(perUnit, density) < MOST_ORDERED;
    return { kind: 'narrow', isOrdered };
  }
  const isNarrow = narrowFits(call);
  let best: ManyPlan = { kind: 'masked' };
  const hidden = experts * expertSize;
  const waves = (columns: number) =>
    Math.ceil((tilesOfRows * Math.ceil(columns / MASKED_COLUMNS)) / multiprocessors);
  const projections = gate === 0 ? 1 : 2;
  const products = waves(projections * hidden) * dIn + waves(dOut) * hidden;
  // Of few rows of a narrow layer a masked one has tiles for few multiprocessors, and long sums in them.
  let least = isNarrow
    ? Number.POSITIVE_INFINITY
    : (MASKED * (MASKED_COLUMNS / 128) * products) / (projections * dIn + dOut);
  for (const width of [128, 64] as const) {
    for (const pools of [2, 4, 0] as const) {
      // A gated tile holds up and gate of one unit in a pair's place.
      if (gate !== 0 && (pools > 0 || width === 64)) continue;
      // Narrower units only pay where they are less often needed.
      if (width === 64 && expertSize > 64) continue;
      const units = unitsOf(experts, expertSize, width);
      const groups = groupsOf(units, pools);
      if (groups > MOST_KINDS) continue;
      const perRow = units.count * anyOf(units.perUnit, density);
      const segments = segmentsFor(perRow, pools);
      // Half a tile is lost at the end of each group that has rows.
      const used = Math.min(groups, rows * segments);
      const tiles = (rows * segments) / TILE_ROWS + used / 2;
      const segmentProducts =
        ((rows * perRow) / TILE_ROWS + (used / 4) * (pools > 0 ? 2 : 1)) * (width / 128);
      const most = storage === 'bfloat16' ? MOST_ADDED.bfloat16 : MOST_ADDED.float16;
      const promised = units.count * anyOf(units.perUnit, promisedDensity(call));
      const isAdded = !isRepeatable && segmentsFor(promised, pools) <= most;
      const hasOnlyKinds =
        isAdded &&
        !isNarrow &&
        pools !== 4 &&
        width === 128 &&
        segments < MOST_ONLY_SEGMENTS &&
        2 * groups <= MOST_KINDS;
      if (pools > 0 && isAdded && !hasOnlyKinds) {
        const isPooled = fourAreFaster(units, rows * perRow) && segmentsFor(promised, 4) <= most;
        if (isPooled !== (pools === 4)) continue;
      } else if (pools === 4) {
        continue;
      }
      const filled = isAdded && !hasOnlyKinds ? tilesOfRows * FILL : 0;
      const perTile = isAdded ? TILE : TILE + APART;
      const cost =
        (segmentProducts * SEGMENT + tiles * perTile + filled) / multiprocessors + GROUPING;
      if (cost >= least) continue;
      least = cost;
      const isInterleaved = hidden <= tiles * MOST_INTERLEAVED;
      best = { kind: 'segments', units, pools, isAdded, hasOnlyKinds, isInterleaved };
    }
  }
  return best;
}

/** Whether a call goes through the kernels for narrow layers: enough tiles of one. */
export function narrowPays(
  call: Pick<ExpertsCall, 'rows' | 'dIn' | 'dOut' | 'experts' | 'expertSize' | 'gate'>,
  multiprocessors: number,
): boolean {
  const { rows } = call;
  const tiles = Math.ceil(rows / TILE_ROWS);
  return rows > MOST_HUNDREDS && tiles * MOST_IDLE >= multiprocessors && narrowFits(call);
}

/** Whether four pools are faster than two for so many pairs of a row and a unit in all. */
function fourAreFaster({ count, width }: Units, pairs: number): boolean {
  const half = count / 2;
  const rowsOfKind = pairs / 2 / (half * (half - 1));
  return rowsOfKind < POOLED_ROWS * width && count >= LEAST_POOLED && count <= MOST_POOLED;
}

/** Segments of a row that runs so many units: half of all pools have an odd number of them; of two, half of these pair up. */
const segmentsFor = (units: number, pools: Pools) =>
  pools === 0 ? units : (units + pools / 4) / 2;

/** Tiles at most, whatever the selection: what the table of them must have room for. */
export function mostTiles(rows: number, units: Units, pools: Pools, hasOnlyKinds: boolean): number {
  const segments = rows * segmentsOf(units, pools);
  const kinds = groupsOf(units, pools) * (hasOnlyKinds ? 2 : 1);
  return Math.ceil(segments / TILE_ROWS) + Math.min(kinds, segments);
}
