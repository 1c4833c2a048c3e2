/** out[ids[i]] += x[i] over rows of d floats, out (segments × d) cleared first; ids outside 0 … segments − 1 are left out. */
export function segmentSum(x: usize, ids: usize, out: usize, rows: i32, d: i32, segments: i32): void {
  const bytes = <usize>d << 2;
  memory.fill(out, 0, <usize>segments * bytes);
  for (let row = 0; row < rows; row++) {
    const id = i32.load(ids + (<usize>row << 2));
    if (id >= 0 && id < segments) {
      const target = out + <usize>id * bytes;
      let o: usize = 0;
      for (; o + 16 <= bytes; o += 16) v128.store(target + o, f32x4.add(v128.load(target + o), v128.load(x + o)));
      for (; o < bytes; o += 4) f32.store(target + o, f32.load(target + o) + f32.load(x + o));
    }
    x += bytes;
  }
}
