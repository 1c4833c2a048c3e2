/** Multiply-adds that are worth a part of their own; a thread that sleeps takes some 30 µs to come. */
const partWork = 2_000_000;

/** More parts than threads, so that one that is held up leaves work to the others. */
const partsPerThread = 2;

/** Into how many parts at most to cut so many multiply-adds. */
export function partsFor(multiplyAdds: number, threads: number): number {
  return Math.min(Math.floor(multiplyAdds / partWork), threads * partsPerThread);
}
