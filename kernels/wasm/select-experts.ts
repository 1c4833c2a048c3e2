import { at } from './simd';

/** The selection rules by number; the host passes these. */
const THRESHOLD: i32 = 0;
const TOP_K: i32 = 1;

/**
 * selection (rows × n bytes) = which experts run, by the rule `threshold`, `topK` or `cumulativeShare` and its value.
 *
 * @param norms rows × n floats, at least 0
 * @param heap n 64-bit integers of scratch
 */
export function selectExperts(norms: usize, selection: usize, rows: i32, n: i32, rule: i32, value: f32, heap: usize): void {
  for (let row = 0; row < rows; row++) {
    if (rule == THRESHOLD) {
      aboveThreshold(norms, selection, n, value);
    } else {
      memory.fill(selection, 0, n);
      greatestFirst(norms, selection, n, rule == TOP_K, value, heap);
    }
    norms = at(norms, n);
    selection += n;
  }
}

function aboveThreshold(norms: usize, selection: usize, n: i32, tau: f32): void {
  let greatest: f32 = 0;
  for (let i = 0; i < n; i++) greatest = max(greatest, f32.load(at(norms, i)));
  if (greatest == 0 && tau > 0) {
    memory.fill(selection, 0, n);
    if (n > 0) store<u8>(selection, 1);
    return;
  }
  const least = greatest * tau;
  for (let i = 0; i < n; i++) store<u8>(selection + i, <u8>(f32.load(at(norms, i)) >= least));
}

/**
 * Takes experts from a heap, greatest norm first. A norm's bits, which order as it does, stand above the complement of
 * its number, by which ties go to the lower number.
 */
function greatestFirst(norms: usize, selection: usize, n: i32, topK: bool, value: f32, heap: usize): void {
  let total: f64 = 0;
  for (let i = 0; i < n; i++) {
    const norm = f32.load(at(norms, i));
    total += norm;
    const bits = <u64>(reinterpret<u32>(norm) & 0x7fffffff);
    store<u64>(heap + (<usize>i << 3), (bits << 32) | <u64>(0xffffffff - <u32>i));
  }
  for (let i = n / 2 - 1; i >= 0; i--) sink(heap, i, n);
  const needed: i32 = topK ? <i32>min<f32>(value, <f32>n) : n;
  const share = <f64>value * total;
  let sum: f64 = 0;
  for (let count = 0; count < needed; count++) {
    const top = load<u64>(heap);
    const norm = reinterpret<f32>(<u32>(top >> 32));
    // Norms of 0 add nothing to a share, whatever rounding left to be reached.
    if (!topK && count > 0 && (sum >= share || norm == 0)) break;
    sum += norm;
    store<u8>(selection + (0xffffffff - <u32>top), 1);
    store<u64>(heap, load<u64>(heap + (<usize>(n - 1 - count) << 3)));
    sink(heap, 0, n - 1 - count);
  }
}

/** Moves element i of a heap of n down to where it belongs. */
function sink(heap: usize, i: i32, n: i32): void {
  const value = load<u64>(heap + (<usize>i << 3));
  for (let child = 2 * i + 1; child < n; child = 2 * i + 1) {
    let greater = load<u64>(heap + (<usize>child << 3));
    if (child + 1 < n) {
      const right = load<u64>(heap + (<usize>(child + 1) << 3));
      if (right > greater) {
        greater = right;
        child++;
      }
    }
    if (greater <= value) break;
    store<u64>(heap + (<usize>i << 3), greater);
    i = child;
  }
  if (n > 0) store<u64>(heap + (<usize>i << 3), value);
}
