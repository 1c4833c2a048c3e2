import { D2DMoEError } from '@d2dmoe/core';

const importSection = 2;
const memorySection = 5;
const memoryKind = 2;

/**
 * A copy of a wasm module whose memory, defined or imported, is declared shared, or not shared. The two differ in one
 * byte, the flags of the memory's limits; no other instruction or section depends on it.
 *
 * @param bytes a module with one memory that has a maximum size, which a shared memory needs
 * @throws D2DMoEError `WASM_INVALID` where it is no such module
 */
export function withMemoryShared(
  bytes: ArrayBuffer | ArrayBufferView,
  shared: boolean,
): Uint8Array<ArrayBuffer> {
  const module = ArrayBuffer.isView(bytes)
    ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength).slice()
    : new Uint8Array(bytes.slice(0));
  const flags = memoryFlags(module);
  if (flags === undefined || ((module[flags] as number) & 1) === 0) {
    throw new D2DMoEError(
      'WASM_INVALID',
      'A wasm module is not what was built: it has no memory with a maximum size.',
    );
  }
  module[flags] = shared ? 3 : 1;
  return module;
}

/** Where the flags of the memory's limits are in a module. */
function memoryFlags(module: Uint8Array): number | undefined {
  let position = 8; // after the magic number and the version
  const byte = () => module[position++] ?? 0;
  const unsigned = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const next = byte();
      value += (next & 127) * scale;
      if (next < 128) return value;
    }
  };
  const limits = () => {
    const flags = byte();
    unsigned();
    if (flags & 1) unsigned();
  };
  while (position < module.length) {
    const section = byte();
    const end = unsigned() + position;
    if (section === memorySection && unsigned() > 0) return position;
    if (section === importSection) {
      for (let left = unsigned(); left > 0 && position < end; left--) {
        for (let names = 0; names < 2; names++) {
          const length = unsigned();
          position += length;
        }
        const kind = byte();
        if (kind === memoryKind) return position;
        if (kind === 0) {
          unsigned(); // a function's type
        } else if (kind === 1) {
          byte(); // a table's element type
          limits();
        } else {
          position += 2; // a global's type and mutability
        }
      }
    }
    position = end;
  }
  return undefined;
}
