/** Where nvcc's PTX announces a function: what it declares for it stands between here and its first line. */
const ANNOUNCEMENT = /^(?=\t\/\/ \.globl\t)/m;
const ENTRY = /^\.visible \.entry (\w+)\(/m;
/** What may stand behind an entry's body, for others too. */
const SHARED = /^(?:\.visible |\.extern |\.weak )?\.(?:func|global|const|shared)\b/m;

/**
 * A module's PTX without the other kernels than `name`: the driver compiles all that it is given, for up to half a minute
 * where there are many. A module that has no such kernel stays without any, so that looking it up fails.
 *
 * @param ptx As nvcc writes it.
 */
export function kernelOf(ptx: string, name: string): string {
  return ptx
    .split(ANNOUNCEMENT)
    .map((piece) => {
      const entry = ENTRY.exec(piece);
      if (!entry || entry[1] === name) return piece;
      const body = piece.slice(entry.index);
      const behind = body.search(SHARED);
      return piece.slice(0, entry.index) + (behind < 0 ? '' : body.slice(behind));
    })
    .join('');
}
