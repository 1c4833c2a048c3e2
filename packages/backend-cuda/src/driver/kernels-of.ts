/** Where nvcc's PTX announces a function: what it declares for it stands between here and its first line. */
const ANNOUNCEMENT = /^(?=\t\/\/ \.globl\t)/m;
const ENTRY = /^\.visible \.entry (\w+)\(/m;
/** What may stand behind an entry's body, for others too. */
const SHARED = /^(?:\.visible |\.extern |\.weak )?\.(?:func|global|const|shared)\b/m;

/**
 * Gives a module's PTX without the other kernels than the named one: the driver compiles all that it is given, for up to
 * half a minute where there are many. For a name of none, a module without kernels, in which looking it up fails.
 *
 * @param ptx As nvcc writes it.
 */
export function kernelsOf(ptx: string): (name: string) => string {
  const pieces = ptx.split(ANNOUNCEMENT).map((piece) => {
    const entry = ENTRY.exec(piece);
    if (!entry) return { piece, left: piece };
    const body = piece.slice(entry.index);
    const behind = body.search(SHARED);
    const left = piece.slice(0, entry.index) + (behind < 0 ? '' : body.slice(behind));
    return { name: entry[1], piece, left };
  });
  return (wanted) =>
    pieces.map(({ name, piece, left }) => (name === wanted ? piece : left)).join('');
}
