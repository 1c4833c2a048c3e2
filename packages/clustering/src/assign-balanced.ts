import { D2DMoEError } from '@d2dmoe/core';
import { checkFinite, checkLength } from './validation.js';

/**
 * Assigns h rows to k columns, exactly `capacity` rows to each, at the least total cost. The result is an exact
 * optimum of this transportation problem, up to float64 rounding.
 *
 * Every column has a price. A row that is placed sits in a column where cost + price is its least. The rows that find
 * room in their cheapest column are placed at once; each further row is placed along the shortest augmenting path
 * (Jonker and Volgenant 1987, with columns that hold `capacity` rows each): it pushes a row of a full column on to
 * another column, that one the next, until a column with room is reached, and prices rise just enough to keep every
 * row content. As all columns are full in the end, any initial prices lead to an optimum; good ones lead there faster.
 *
 * @param costs Costs, [h, k], row-major, finite.
 * @param h Number of rows; `k * capacity`.
 * @param k Number of columns.
 * @param capacity Rows of each column.
 * @param prices Prices to start from, [k], e.g. those of a similar problem solved before; zeros by default. They are
 *   replaced by optimal ones, for which Σ_i min_j (cost_ij + price_j) − capacity · Σ_j price_j, a lower bound on the
 *   cost of any balanced assignment, equals the cost of the one returned.
 * @returns Each row's column, [h].
 * @throws D2DMoEError `ASSIGNMENT_SIZE_INVALID` where `h` is not `k * capacity`, `LENGTH_MISMATCH` where an array does
 *   not have its shape's length, `VALUE_NOT_FINITE` where a cost or price is not finite.
 */
export function assignBalanced(
  costs: Float32Array | Float64Array,
  h: number,
  k: number,
  capacity: number,
  prices: Float64Array = new Float64Array(k),
): Uint32Array {
  if (h !== k * capacity) {
    throw new D2DMoEError(
      'ASSIGNMENT_SIZE_INVALID',
      `A balanced assignment to ${k} columns of ${capacity} needs ${k * capacity} rows, but there are ${h}.`,
    );
  }
  checkLength('costs', costs, [h, k]);
  checkLength('prices', prices, [k]);
  checkFinite('costs', costs, k);
  checkFinite('prices', prices, 1);

  const columnOf = new Uint32Array(h);
  const slotOf = new Uint32Array(h);
  const members = new Uint32Array(h);
  const load = new Uint32Array(k);
  const place = (row: number, column: number, slot: number): void => {
    columnOf[row] = column;
    slotOf[row] = slot;
    members[column * capacity + slot] = row;
  };

  const waiting: number[] = [];
  for (let row = 0; row < h; row++) {
    const column = cheapestColumn(costs, row, k, prices);
    const slot = load[column] as number;
    if (slot === capacity) {
      waiting.push(row);
      continue;
    }
    place(row, column, slot);
    load[column] = slot + 1;
  }

  // Dijkstra's search from one waiting row over columns: `distance` is how much the total of cost + price grows when
  // the row's chain of pushes ends in this column, `pushed` the row that comes into it as the chain's last.
  const distance = new Float64Array(k);
  const pushed = new Uint32Array(k);
  const scanned = new Uint8Array(k);
  for (const start of waiting) {
    distance.fill(Infinity);
    scanned.fill(0);
    const relax = (row: number, offset: number): void => {
      const base = row * k;
      for (let j = 0; j < k; j++) {
        const reached = offset + ((costs[base + j] as number) + (prices[j] as number));
        if (reached < (distance[j] as number) && scanned[j] === 0) {
          distance[j] = reached;
          pushed[j] = row;
        }
      }
    };
    relax(start, 0);
    let column = nearestColumn(distance, scanned);
    while (load[column] === capacity) {
      scanned[column] = 1;
      for (let slot = 0; slot < capacity; slot++) {
        const row = members[column * capacity + slot] as number;
        const paid = (costs[row * k + column] as number) + (prices[column] as number);
        relax(row, (distance[column] as number) - paid);
      }
      column = nearestColumn(distance, scanned);
    }

    const shortest = distance[column] as number;
    for (let j = 0; j < k; j++) {
      if (scanned[j] === 1) prices[j] = (prices[j] as number) + shortest - (distance[j] as number);
    }
    let slot = load[column] as number;
    load[column] = slot + 1;
    let row = pushed[column] as number;
    while (row !== start) {
      const leftColumn = columnOf[row] as number;
      const leftSlot = slotOf[row] as number;
      place(row, column, slot);
      column = leftColumn;
      slot = leftSlot;
      row = pushed[column] as number;
    }
    place(start, column, slot);
  }
  return columnOf;
}

function cheapestColumn(
  costs: Float32Array | Float64Array,
  row: number,
  k: number,
  prices: Float64Array,
): number {
  let best = 0;
  let least = Infinity;
  for (let j = 0; j < k; j++) {
    const total = (costs[row * k + j] as number) + (prices[j] as number);
    if (total < least) {
      least = total;
      best = j;
    }
  }
  return best;
}

function nearestColumn(distance: Float64Array, scanned: Uint8Array): number {
  let best = 0;
  let least = Infinity;
  for (let j = 0; j < distance.length; j++) {
    if (scanned[j] === 0 && (distance[j] as number) < least) {
      least = distance[j] as number;
      best = j;
    }
  }
  return best;
}
