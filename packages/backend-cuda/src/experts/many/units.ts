/** The units of neurons that the many-rows kernels execute at once, as experts-units.cuh has them. */
export interface Units {
  readonly experts: number;
  readonly expertSize: number;
  /** Neurons that a tile has room for in a unit. */
  readonly width: 64 | 128;
  /** Whole experts in a unit, where these are narrower than it. */
  readonly perUnit: number;
  /** Units of an expert, where it is wider than they are. */
  readonly parts: number;
  /** Number of units. */
  readonly count: number;
}

/**
 * Most parts of a row that are added up in 16 bits, each sum being rounded. So many units of random values give relative
 * errors of 4.8e-3 and 9.0e-4.
 */
export const MOST_ADDED = { bfloat16: 9, float16: 20 } as const;

/** Most experts in a unit: the bits of a word. */
const MOST_PER_UNIT = 32;

/** Cuts experts up, or puts them together, into units of at most `width` neurons. */
export function unitsOf(experts: number, expertSize: number, width: 64 | 128): Units {
  const perUnit = expertSize < width ? Math.min(MOST_PER_UNIT, Math.floor(width / expertSize)) : 1;
  const parts = Math.ceil(expertSize / width);
  return {
    experts,
    expertSize,
    width,
    perUnit,
    parts,
    count: Math.ceil(experts / perUnit) * parts,
  };
}

/**
 * How a row's units go in pairs, as experts-units.cuh has it: in 2 pools of neighbours, what is left of both pairing up
 * last; in 4, what is left staying single; or not at all.
 */
export type Pools = 0 | 2 | 4;

const pairsOf = (units: number) => (units * (units - 1)) / 2;

/** Units of a pool. */
const poolOf = (units: Units, pools: Pools) => (pools === 0 ? 1 : Math.ceil(units.count / pools));

/** Kinds of segments: pairs of units, and single units. */
export function groupsOf(units: Units, pools: Pools): number {
  const pairs = pools === 2 ? pairsOf(units.count) : pools * pairsOf(poolOf(units, pools));
  return pairs + units.count;
}

/** Most segments of a row. */
export function segmentsOf(units: Units, pools: Pools): number {
  if (pools === 0) return units.count;
  return pools === 2 ? Math.ceil(units.count / 2) : pools * Math.ceil(poolOf(units, pools) / 2);
}
