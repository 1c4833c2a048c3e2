/**
 * A seeded pseudo-random generator (xoshiro128**, Blackman and Vigna 2018, seeded through splitmix32). The same seed
 * gives the same numbers on every platform. It is passed in wherever random numbers are needed; nothing in d2dmoe
 * uses Math.random.
 */
export class Random {
  readonly #state = new Uint32Array(4);
  readonly #seed: number;

  /** @param seed Any integer; only its lowest 32 bits count. */
  constructor(seed: number) {
    this.#seed = seed >>> 0;
    let z = this.#seed;
    for (let i = 0; i < 4; i++) {
      z = (z + 0x9e3779b9) >>> 0;
      let t = z ^ (z >>> 16);
      t = Math.imul(t, 0x21f0aaad);
      t ^= t >>> 15;
      t = Math.imul(t, 0x735a2d97);
      this.#state[i] = t ^ (t >>> 15);
    }
  }

  /** The next 32 random bits as an unsigned integer. */
  uint32(): number {
    const s = this.#state as unknown as [number, number, number, number];
    const product = Math.imul(s[1], 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result;
  }

  /** A uniform number in [0, 1) with 53 random bits. */
  uniform(): number {
    const high = this.uint32() >>> 5;
    const low = this.uint32() >>> 6;
    return (high * 0x4000000 + low) / 0x20000000000000;
  }

  /** A uniform integer in [0, bound), for bound up to 2³². */
  integer(bound: number): number {
    return Math.floor(this.uniform() * bound);
  }

  /** A draw from the standard normal distribution (Box and Muller 1958). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** A random order of 0 … n − 1 (Fisher and Yates 1938). */
  permutation(n: number): Uint32Array {
    const order = new Uint32Array(n);
    for (let i = 0; i < n; i++) {
      const j = this.integer(i + 1);
      order[i] = order[j] as number;
      order[j] = i;
    }
    return order;
  }

  /**
   * An independent generator named by this one's seed and a label. It does not advance this one and does not depend
   * on how far this one has advanced, so that work which is resumed in the middle draws the same numbers.
   */
  fork(label: string | number): Random {
    let hash = 0x811c9dc5 ^ this.#seed;
    for (const character of String(label)) {
      hash = Math.imul(hash ^ (character.codePointAt(0) as number), 0x01000193);
    }
    return new Random(hash ^ (hash >>> 15));
  }
}
