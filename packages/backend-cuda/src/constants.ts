/** Bytes of a page of constants. */
const PAGE_BYTES = 64 * 1024;
const ALIGN = 16;
/** Tables of one generation; two are kept, so that programs whose shapes never repeat do not fill the device. */
const MOST_TABLES = 16_384;

/** Gives device memory for a page, and fills it. */
export interface ConstantMemory {
  allocate(bytes: number): { pointer: number; free(): void };
  upload(pointer: number, bytes: Uint8Array): void;
}

/** Small tables on the device (strides, shapes, offsets), one copy of each content. */
export class Constants {
  readonly #memory: ConstantMemory;
  readonly #pointers = new Map<string, number>();
  #pages: { free(): void }[] = [];
  #oldPages: { free(): void }[] = [];
  #next = 0;
  #end = 0;
  #most = MOST_TABLES;

  constructor(memory: ConstantMemory) {
    this.#memory = memory;
  }

  /** Device address of a copy of `values`, for launches that are enqueued next: hold the values, not the address. */
  pointer(values: Int32Array | Float32Array): number {
    const key = `${values instanceof Int32Array ? 'i' : 'f'}${values.join()}`;
    const known = this.#pointers.get(key);
    if (known !== undefined) return known;
    if (this.#pointers.size >= this.#most) this.#turn();
    const bytes = Math.max(ALIGN, Math.ceil(values.byteLength / ALIGN) * ALIGN);
    if (this.#next + bytes > this.#end) {
      const size = Math.max(PAGE_BYTES, bytes);
      const page = this.#memory.allocate(size);
      this.#pages.push(page);
      this.#next = page.pointer;
      this.#end = page.pointer + size;
    }
    const pointer = this.#next;
    this.#next += bytes;
    this.#memory.upload(
      pointer,
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
    this.#pointers.set(key, pointer);
    return pointer;
  }

  /** Forgets nothing from here on: launches of a graph read the tables that it was recorded with. */
  keepAll(): void {
    this.#most = Number.POSITIVE_INFINITY;
  }

  /** Forgets the present tables, whose memory goes at the next turn: a launch may be about to use them. */
  #turn(): void {
    for (const page of this.#oldPages) page.free();
    this.#oldPages = this.#pages;
    this.#pages = [];
    this.#pointers.clear();
    this.#next = 0;
    this.#end = 0;
  }
}
