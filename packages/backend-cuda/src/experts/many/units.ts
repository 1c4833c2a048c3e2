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

/** Kinds of segments: pairs of units if a row's units go in pairs, and single units. */
export function groupsOf(units: Units, isPaired: boolean): number {
  return units.count + (isPaired ? (units.count * (units.count - 1)) / 2 : 0);
}

/** Most segments of a row. */
export function segmentsOf(units: Units, isPaired: boolean): number {
  return isPaired ? Math.ceil(units.count / 2) : units.count;
}
