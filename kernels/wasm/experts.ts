/**
 * The expert op: each token's selected experts, from weights in the panels of pack-experts.ts.
 *
 * 1. {@link expertCounts} and {@link expertRows} sort the (row, expert) pairs of a selection by expert, by counting.
 * 2. {@link expertHidden} computes the hidden activations of every pair, [pairs, width], expert by expert.
 * 3. {@link expertOutput} adds each expert's product with them to its rows of the output.
 *
 * The second and the third do one of several parts of the work. What two parts write never overlaps: they can run at
 * once, with all of the second done before the third begins, and the result's bits do not depend on their number.
 *
 * A tile is {@link MR} rows × 8 columns in registers, and lower ones take the rows that are left. An expert's rows of x
 * are gathered by the copy that puts them side by side for each k, as the tile reads them; the hidden activations are
 * written that way at once. To read x where it lies instead was slower: a tile then needs more addresses than there are
 * registers. One row needs no copy and reads its weights once, in the order in which they lie in memory.
 *
 * Operations: 2·pairs·expertSize·(dIn + dOut), the first product twice for a gated FFN. Bytes: a selected expert's
 * weights once for every {@link BLOCK_ROWS} of its rows; each of these rows is copied once.
 */
import { activate } from './activation';
import { MR } from './gemm';
import { at, madd } from './simd';

/** Columns of a tile and of a panel. */
const PANEL: i32 = 8;
/** Rows of an expert that are gathered at a time; both products cut them into the same tiles. */
const BLOCK_ROWS: i32 = 48;
/** Steps of a product after which the next rows take their turn: a panel's part of that length stays in cache. */
const DEPTH: i32 = 384;

/** Floats of scratch that {@link expertHidden} and {@link expertOutput} need for each thread. */
export function expertScratch(dIn: i32, expertSize: i32, int8: bool): i32 {
  return BLOCK_ROWS * (dIn + 2 * PANEL + 2) + (int8 ? (max(dIn, expertSize) + 1) * PANEL : 0);
}

/**
 * Counts the pairs of each expert.
 *
 * @param selection rows × experts bytes, 1 where the expert runs
 * @param starts experts + 1 integers: where each expert's pairs end, and at the end their number
 * @returns the number of pairs
 */
export function expertCounts(selection: usize, rows: i32, experts: i32, starts: usize): i32 {
  memory.fill(starts, 0, (<usize>experts + 1) << 2);
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < experts; i++) {
      const count = at(starts, i);
      i32.store(count, i32.load(count) + <i32>load<u8>(selection + i));
    }
    selection += experts;
  }
  let end = 0;
  for (let i = 0; i < experts; i++) {
    end += i32.load(at(starts, i));
    i32.store(at(starts, i), end);
  }
  i32.store(at(starts, experts), end);
  return end;
}

/** Lists the rows of each expert in order, and turns the ends of {@link expertCounts} into starts. */
export function expertRows(selection: usize, rows: i32, experts: i32, starts: usize, list: usize): void {
  for (let row = rows - 1; row >= 0; row--) {
    const chosen = selection + <usize>row * <usize>experts;
    for (let i = 0; i < experts; i++) {
      if (load<u8>(chosen + i)) {
        const place = i32.load(at(starts, i)) - 1;
        i32.store(at(starts, i), place);
        i32.store(at(list, place), row);
      }
    }
  }
}

/**
 * c += a·b for `height` rows, a being k × height and b a panel of k × 8 whose rows are `step` bytes apart. Of a
 * narrower panel the last results are those of whatever lies behind it.
 *
 * @param height 4 or 6, a constant
 * @param rows where each row of c lies, less cOffset
 */
// @ts-ignore: decorator
@inline
function tile(height: i32, a: usize, b: usize, step: usize, k: i32, rows: usize, cOffset: usize): void {
  let c = load<usize>(rows) + cOffset;
  let c00 = v128.load(c);
  let c01 = v128.load(c, 16);
  c = load<usize>(rows, 4) + cOffset;
  let c10 = v128.load(c);
  let c11 = v128.load(c, 16);
  c = load<usize>(rows, 8) + cOffset;
  let c20 = v128.load(c);
  let c21 = v128.load(c, 16);
  c = load<usize>(rows, 12) + cOffset;
  let c30 = v128.load(c);
  let c31 = v128.load(c, 16);
  let c40 = c00;
  let c41 = c00;
  let c50 = c00;
  let c51 = c00;
  if (height > 4) {
    c = load<usize>(rows, 16) + cOffset;
    c40 = v128.load(c);
    c41 = v128.load(c, 16);
    c = load<usize>(rows, 20) + cOffset;
    c50 = v128.load(c);
    c51 = v128.load(c, 16);
  }
  for (const end = at(a, k * height); a < end; ) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    let s = v128.load32_splat(a);
    c00 = madd(s, b0, c00);
    c01 = madd(s, b1, c01);
    s = v128.load32_splat(a, 4);
    c10 = madd(s, b0, c10);
    c11 = madd(s, b1, c11);
    s = v128.load32_splat(a, 8);
    c20 = madd(s, b0, c20);
    c21 = madd(s, b1, c21);
    s = v128.load32_splat(a, 12);
    c30 = madd(s, b0, c30);
    c31 = madd(s, b1, c31);
    if (height > 4) {
      s = v128.load32_splat(a, 16);
      c40 = madd(s, b0, c40);
      c41 = madd(s, b1, c41);
      s = v128.load32_splat(a, 20);
      c50 = madd(s, b0, c50);
      c51 = madd(s, b1, c51);
    }
    a = at(a, height);
    b += step;
  }
  c = load<usize>(rows) + cOffset;
  v128.store(c, c00);
  v128.store(c, c01, 16);
  c = load<usize>(rows, 4) + cOffset;
  v128.store(c, c10);
  v128.store(c, c11, 16);
  c = load<usize>(rows, 8) + cOffset;
  v128.store(c, c20);
  v128.store(c, c21, 16);
  c = load<usize>(rows, 12) + cOffset;
  v128.store(c, c30);
  v128.store(c, c31, 16);
  if (height > 4) {
    c = load<usize>(rows, 16) + cOffset;
    v128.store(c, c40);
    v128.store(c, c41, 16);
    c = load<usize>(rows, 20) + cOffset;
    v128.store(c, c50);
    v128.store(c, c51, 16);
  }
}

// The module exports these, which keeps them functions: inlined into the loop around them they run at half the speed,
// because the engine then no longer keeps a tile in registers.
export function tile6(a: usize, b: usize, step: usize, k: i32, rows: usize, cOffset: usize): void {
  tile(6, a, b, step, k, rows, cOffset);
}

export function tile4(a: usize, b: usize, step: usize, k: i32, rows: usize, cOffset: usize): void {
  tile(4, a, b, step, k, rows, cOffset);
}

/** One row: four steps at a time into registers of their own, so that no sum waits for the last. */
export function row(a: usize, b: usize, step: usize, k: i32, c: usize): void {
  let c00 = v128.load(c);
  let c01 = v128.load(c, 16);
  let c10 = f32x4.splat(0);
  let c11 = c10;
  let c20 = c10;
  let c21 = c10;
  let c30 = c10;
  let c31 = c10;
  const end = at(a, k);
  for (const fourEnd = at(a, k & ~3); a < fourEnd; a += 16) {
    let s = v128.load32_splat(a);
    c00 = madd(s, v128.load(b), c00);
    c01 = madd(s, v128.load(b, 16), c01);
    b += step;
    s = v128.load32_splat(a, 4);
    c10 = madd(s, v128.load(b), c10);
    c11 = madd(s, v128.load(b, 16), c11);
    b += step;
    s = v128.load32_splat(a, 8);
    c20 = madd(s, v128.load(b), c20);
    c21 = madd(s, v128.load(b, 16), c21);
    b += step;
    s = v128.load32_splat(a, 12);
    c30 = madd(s, v128.load(b), c30);
    c31 = madd(s, v128.load(b, 16), c31);
    b += step;
  }
  for (; a < end; a += 4) {
    const s = v128.load32_splat(a);
    c00 = madd(s, v128.load(b), c00);
    c01 = madd(s, v128.load(b, 16), c01);
    b += step;
  }
  v128.store(c, f32x4.add(f32x4.add(c00, c10), f32x4.add(c20, c30)));
  v128.store(c, f32x4.add(f32x4.add(c01, c11), f32x4.add(c21, c31)), 16);
}

/** The same of a panel of int8, turned into floats in registers. */
export function rowInt8(a: usize, b: usize, step: usize, k: i32, c: usize): void {
  let c00 = v128.load(c);
  let c01 = v128.load(c, 16);
  let c10 = f32x4.splat(0);
  let c11 = c10;
  const end = at(a, k);
  for (const pairEnd = at(a, k & ~1); a < pairEnd; a += 8) {
    let q = v128.load8x8_s(b);
    b += step;
    let s = v128.load32_splat(a);
    c00 = madd(s, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q)), c00);
    c01 = madd(s, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q)), c01);
    q = v128.load8x8_s(b);
    b += step;
    s = v128.load32_splat(a, 4);
    c10 = madd(s, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q)), c10);
    c11 = madd(s, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q)), c11);
  }
  if (a < end) {
    const q = v128.load8x8_s(b);
    const s = v128.load32_splat(a);
    c00 = madd(s, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q)), c00);
    c01 = madd(s, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q)), c01);
  }
  v128.store(c, f32x4.add(c00, c10));
  v128.store(c, f32x4.add(c01, c11), 16);
}

/**
 * How many of the `left` rows the next tile takes. Fewer than 4 go one by one: a tile of 2 or 3 has too few sums in
 * flight to be faster. That is also why 8 and 9 begin with 4.
 */
// @ts-ignore: decorator
@inline
function tileRows(left: i32): i32 {
  if (MR == 6 && left >= 6 && left != 8 && left != 9) return 6;
  return left >= 4 ? 4 : 1;
}

/** `count` int8 values as floats, for a panel that several tiles read. */
function widen(source: usize, count: i32, target: usize): void {
  for (const end = source + count; source < end; source += 8) {
    const q = v128.load8x8_s(source);
    v128.store(target, f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(q)));
    v128.store(target, f32x4.convert_i32x4_s(i32x4.extend_high_i16x8_s(q)), 16);
    target += 32;
  }
}

/**
 * c += a·b for any number of rows, a in tiles one behind another, b a panel of k × columns. An int8 panel is turned
 * into floats in registers for one row, and for more once, ahead, in `wide`.
 *
 * @param table where each row of c lies, less cOffset
 */
function multiply(
  a: usize,
  b: usize,
  rows: i32,
  columns: i32,
  k: i32,
  int8: bool,
  wide: usize,
  table: usize,
  cOffset: usize,
): void {
  const c = load<usize>(table) + cOffset;
  if (int8) {
    if (rows == 1) {
      rowInt8(a, b, columns, k, c);
      return;
    }
    widen(b, k * columns, wide);
    b = wide;
  }
  const step = <usize>columns << 2;
  if (rows == 1) {
    row(a, b, step, k, c);
    return;
  }
  for (let p = 0; p < k; p += DEPTH) {
    const depth = min(DEPTH, k - p);
    for (let first = 0; first < rows; ) {
      const count = tileRows(rows - first);
      const from = at(a, first * k + p * count);
      const to = at(table, first);
      if (MR == 6 && count == 6) tile6(from, b, step, depth, to, cOffset);
      else if (count == 4) tile4(from, b, step, depth, to, cOffset);
      else row(from, b, step, depth, load<usize>(to) + cOffset);
      first += count;
    }
    b += step * <usize>depth;
  }
}

/** Row number `index` of the list, in a matrix of `width` columns. */
// @ts-ignore: decorator
@inline
function rowAt(matrix: usize, list: usize, index: i32, width: i32): usize {
  return matrix + ((<usize>i32.load(at(list, index)) * <usize>width) << 2);
}

/**
 * Copies `columns` columns of `count` rows into tiles of `width` columns, from `column` on: there the values of a
 * tile's rows lie side by side.
 *
 * @param rows where each row lies
 */
function toTiles(rows: usize, count: i32, columns: i32, tiles: usize, width: i32, column: i32): void {
  for (let first = 0; first < count; ) {
    const height = tileRows(count - first);
    const target = at(tiles, first * width + column * height);
    if (height == 1) {
      memory.copy(target, load<usize>(rows), <usize>columns << 2);
    } else {
      const quads = columns & ~3;
      if (height == 6) interleave6(rows, quads, target);
      else interleave4(rows, quads, target);
      for (let p = quads; p < columns; p++) {
        for (let r = 0; r < height; r++) {
          f32.store(at(target, p * height + r), f32.load(at(load<usize>(at(rows, r)), p)));
        }
      }
    }
    rows = at(rows, height);
    first += height;
  }
}

/** Lays the first `columns` columns of 4 rows, a multiple of 4, side by side. */
function interleave4(rows: usize, columns: i32, target: usize): void {
  const x0 = load<usize>(rows);
  const x1 = load<usize>(rows, 4);
  const x2 = load<usize>(rows, 8);
  const x3 = load<usize>(rows, 12);
  for (let p: usize = 0, end = <usize>columns << 2; p < end; p += 16) {
    const a = v128.load(x0 + p);
    const b = v128.load(x1 + p);
    const c = v128.load(x2 + p);
    const d = v128.load(x3 + p);
    const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
    const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
    const AB = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
    const CD = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
    v128.store(target, v128.shuffle<i64>(ab, cd, 0, 2));
    v128.store(target, v128.shuffle<i64>(ab, cd, 1, 3), 16);
    v128.store(target, v128.shuffle<i64>(AB, CD, 0, 2), 32);
    v128.store(target, v128.shuffle<i64>(AB, CD, 1, 3), 48);
    target += 64;
  }
}

/** The same of 6 rows. */
function interleave6(rows: usize, columns: i32, target: usize): void {
  const x0 = load<usize>(rows);
  const x1 = load<usize>(rows, 4);
  const x2 = load<usize>(rows, 8);
  const x3 = load<usize>(rows, 12);
  const x4 = load<usize>(rows, 16);
  const x5 = load<usize>(rows, 20);
  for (let p: usize = 0, end = <usize>columns << 2; p < end; p += 16) {
    const a = v128.load(x0 + p);
    const b = v128.load(x1 + p);
    const c = v128.load(x2 + p);
    const d = v128.load(x3 + p);
    const e = v128.load(x4 + p);
    const f = v128.load(x5 + p);
    const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
    const cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
    const ef = v128.shuffle<i32>(e, f, 0, 4, 1, 5);
    const AB = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
    const CD = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
    const EF = v128.shuffle<i32>(e, f, 2, 6, 3, 7);
    v128.store(target, v128.shuffle<i64>(ab, cd, 0, 2));
    v128.store(target, v128.shuffle<i64>(ef, ab, 0, 3), 16);
    v128.store(target, v128.shuffle<i64>(cd, ef, 1, 3), 32);
    v128.store(target, v128.shuffle<i64>(AB, CD, 0, 2), 48);
    v128.store(target, v128.shuffle<i64>(EF, AB, 0, 3), 64);
    v128.store(target, v128.shuffle<i64>(CD, EF, 1, 3), 80);
    target += 96;
  }
}

/** What an expert costs per panel, in tiles: one for reading the weights, and its rows. */
// @ts-ignore: decorator
@inline
function panelWork(starts: usize, expert: i32): i32 {
  const pairs = i32.load(at(starts, expert + 1)) - i32.load(at(starts, expert));
  return pairs == 0 ? 0 : 1 + (pairs + MR - 1) / MR;
}

/** Which of `panels` panels is the first to begin at `bound` or later, panel i beginning at start + i·each. */
// @ts-ignore: decorator
@inline
function firstFrom(bound: i64, start: i64, each: i64, panels: i32): i32 {
  if (bound <= start) return 0;
  return <i32>min<i64>(panels, (bound - start + each - 1) / each);
}

/**
 * hidden = act(scale·up·x + bias) for each pair, or act(scale·gate·x + bias) ⊙ (…) where gate is not 0, times the scale
 * that the neuron's row of down asks for.
 *
 * @param x rows of dIn floats
 * @param up panels of 8 neurons, as packColumns makes them
 * @param gate the same, or 0
 * @param vectors upBias, gateBias, upScale, gateScale and downScale, `neurons` floats each, and 8 more
 * @param starts where each expert's pairs start, and their number
 * @param list each pair's row
 * @param hidden pairs × expertSize floats, in tiles
 * @param scratch {@link expertScratch} floats for each thread
 * @param thread whose scratch to use
 */
export function expertHidden(
  x: usize,
  up: usize,
  gate: usize,
  vectors: usize,
  starts: usize,
  list: usize,
  hidden: usize,
  dIn: i32,
  neurons: i32,
  expertSize: i32,
  activation: i32,
  int8: bool,
  scratch: usize,
  thread: i32,
  part: i32,
  parts: i32,
): void {
  const panels = (expertSize + PANEL - 1) / PANEL;
  const experts = neurons / expertSize;
  let work: i64 = 0;
  for (let i = 0; i < experts; i++) work += <i64>(panels * panelWork(starts, i));
  const lower = (work * part + parts - 1) / parts;
  const upper = (work * (part + 1) + parts - 1) / parts;
  const size: usize = int8 ? 1 : 4;
  const gathered = at(scratch, thread * expertScratch(dIn, expertSize, int8));
  const result = at(gathered, BLOCK_ROWS * dIn);
  const gateResult = at(result, BLOCK_ROWS * PANEL);
  const xRows = at(gateResult, BLOCK_ROWS * PANEL);
  const resultRows = at(xRows, BLOCK_ROWS);
  const wide = at(resultRows, BLOCK_ROWS);
  for (let i = 0; i < BLOCK_ROWS; i++) store<usize>(at(resultRows, i), at(result, i * PANEL));
  let start: i64 = 0;
  for (let expert = 0; expert < experts; expert++) {
    const each = panelWork(starts, expert);
    if (each == 0) continue;
    const from = firstFrom(lower, start, each, panels);
    const to = firstFrom(upper, start, each, panels);
    start += <i64>(panels * each);
    if (from == to) continue;
    const end = i32.load(at(starts, expert + 1));
    for (let pair = i32.load(at(starts, expert)); pair < end; pair += BLOCK_ROWS) {
      const rows = min(BLOCK_ROWS, end - pair);
      let a = gathered;
      if (rows == 1) {
        a = rowAt(x, list, pair, dIn);
      } else {
        for (let i = 0; i < rows; i++) store<usize>(at(xRows, i), rowAt(x, list, pair + i, dIn));
        toTiles(xRows, rows, dIn, a, dIn, 0);
      }
      for (let panel = from; panel < to; panel++) {
        const column = panel * PANEL;
        const columns = min(PANEL, expertSize - column);
        const neuron = expert * expertSize + column;
        const offset = <usize>neuron * <usize>dIn * size;
        memory.fill(result, 0, <usize>rows << 5);
        if (gate) memory.fill(gateResult, 0, <usize>rows << 5);
        multiply(a, up + offset, rows, columns, dIn, int8, wide, resultRows, 0);
        if (gate) multiply(a, gate + offset, rows, columns, dIn, int8, wide, resultRows, gateResult - result);
        applyActivation(result, gate ? gateResult : 0, rows, at(vectors, neuron), neurons, activation);
        toTiles(resultRows, rows, columns, at(hidden, pair * expertSize), expertSize, column);
      }
    }
  }
}

/** z (rows × 8) = the hidden activations, from the products with up and with gate; gate is 0 for none. */
function applyActivation(z: usize, gate: usize, rows: i32, vectors: usize, neurons: i32, activation: i32): void {
  for (let half: usize = 0; half < 32; half += 16) {
    const upBias = v128.load(vectors + half);
    const gateBias = v128.load(at(vectors, neurons) + half);
    const upScale = v128.load(at(vectors, 2 * neurons) + half);
    const gateScale = v128.load(at(vectors, 3 * neurons) + half);
    const downScale = v128.load(at(vectors, 4 * neurons) + half);
    for (let o = half, end = <usize>rows << 5; o < end; o += 32) {
      let value = madd(v128.load(z + o), upScale, upBias);
      if (gate) {
        value = f32x4.mul(value, activate(madd(v128.load(gate + o), gateScale, gateBias), activation));
      } else {
        value = activate(value, activation);
      }
      v128.store(z + o, f32x4.mul(value, downScale));
    }
  }
}

/**
 * y (rows × dOut) = bias + each row's experts' down·hidden; a part is a range of columns.
 *
 * @param hidden what {@link expertHidden} computed
 * @param down panels of 8 columns for each expert, as packRows makes them
 * @param bias dOut floats
 * @param scratch {@link expertScratch} floats for each thread
 * @param thread whose scratch to use
 */
export function expertOutput(
  hidden: usize,
  down: usize,
  bias: usize,
  starts: usize,
  list: usize,
  y: usize,
  rows: i32,
  dIn: i32,
  dOut: i32,
  experts: i32,
  expertSize: i32,
  int8: bool,
  scratch: usize,
  thread: i32,
  part: i32,
  parts: i32,
): void {
  const size: usize = int8 ? 1 : 4;
  const result = at(scratch, thread * expertScratch(dIn, expertSize, int8));
  const table = at(result, BLOCK_ROWS * PANEL);
  const wide = at(table, BLOCK_ROWS);
  const panels = (dOut + PANEL - 1) / PANEL;
  const from = ((panels * part) / parts) * PANEL;
  const to = min(dOut, ((panels * (part + 1)) / parts) * PANEL);
  if (from >= to) return;
  for (let row = 0; row < rows; row++) {
    const start = <usize>row * <usize>dOut + <usize>from;
    memory.copy(y + (start << 2), at(bias, from), <usize>(to - from) << 2);
  }
  for (let expert = 0; expert < experts; expert++) {
    const end = i32.load(at(starts, expert + 1));
    for (let pair = i32.load(at(starts, expert)); pair < end; pair += BLOCK_ROWS) {
      const count = min(BLOCK_ROWS, end - pair);
      const a = hidden + ((<usize>pair * <usize>expertSize) << 2);
      for (let i = 0; i < count; i++) store<usize>(at(table, i), rowAt(y, list, pair + i, dOut));
      for (let column = from; column < to; column += PANEL) {
        const columns = min(PANEL, dOut - column);
        const b = down + (<usize>expert * <usize>dOut + <usize>column) * <usize>expertSize * size;
        if (columns == PANEL) {
          multiply(a, b, count, columns, expertSize, int8, wide, table, <usize>column << 2);
          continue;
        }
        memory.fill(result, 0, <usize>count << 5);
        for (let i = 0; i < count; i++) store<usize>(at(table, i), at(result, i * PANEL));
        multiply(a, b, count, columns, expertSize, int8, wide, table, 0);
        for (let i = 0; i < count; i++) {
          accumulate(at(result, i * PANEL), columns, at(rowAt(y, list, pair + i, dOut), column));
        }
      }
    }
  }
}

/** target += source, of up to 8 columns. */
// @ts-ignore: decorator
@inline
function accumulate(source: usize, columns: i32, target: usize): void {
  if (columns == PANEL) {
    v128.store(target, f32x4.add(v128.load(target), v128.load(source)));
    v128.store(target, f32x4.add(v128.load(target, 16), v128.load(source, 16)), 16);
  } else {
    for (let j = 0; j < columns; j++) {
      f32.store(at(target, j), f32.load(at(target, j)) + f32.load(at(source, j)));
    }
  }
}
