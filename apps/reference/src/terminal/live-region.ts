import { stripVTControlCharacters } from 'node:util';

/** The part of a terminal's stream that is used here; `process.stderr` is one. */
export type OutputStream = NodeJS.WritableStream & {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
};

const regions = new WeakMap<OutputStream, LiveRegion>();

/**
 * Whether lines may be redrawn in place on `stream`: it is a terminal, and neither `NO_COLOR`, `CI` nor a dumb terminal
 * asks for plain text.
 */
export function canRedraw(stream: OutputStream): boolean {
  const { NO_COLOR = '', CI = '', TERM } = process.env;
  return stream.isTTY === true && NO_COLOR === '' && /^(0|false)?$/.test(CI) && TERM !== 'dumb';
}

/**
 * Writes whole lines to `stream`, above the region that is being redrawn there, if any. Whatever else writes to a
 * terminal while progress bars run should go through this.
 */
export function printLine(stream: OutputStream, text: string): void {
  const region = regions.get(stream);
  if (region) region.print(text);
  else stream.write(`${text}\n`);
}

/** Ends the region that is being redrawn on `stream`, if any: its last state stays, and the cursor is shown. */
export function closeRegion(stream: OutputStream): void {
  regions.get(stream)?.close();
}

/**
 * The last lines of a terminal, redrawn in place. The cursor is hidden and rests below the region meanwhile; it is
 * shown again by {@link close}, when the process exits, and on SIGINT.
 */
export class LiveRegion {
  readonly #stream: OutputStream;
  #drawn: string[] = [];
  #columns = 0;

  constructor(stream: OutputStream) {
    closeRegion(stream);
    this.#stream = stream;
    regions.set(stream, this);
    process.on('exit', this.#showCursor);
    process.on('SIGINT', this.#onInterrupt);
    stream.write('\x1b[?25l');
  }

  /** The characters that a line may have. The terminal's last column stays free, because writing it may wrap. */
  get width(): number {
    return (this.#stream.columns || 80) - 1;
  }

  /**
   * Replaces the region's lines. Those that are too long are cut; those that the terminal has no room for, left out.
   *
   * @param above Whole lines to write above the region in the same frame. They are not cut.
   */
  draw(lines: readonly string[], above?: string): void {
    if (regions.get(this.#stream) !== this) return;
    const columns = this.width + 1;
    const room = Math.max(1, (this.#stream.rows || 24) - 1);
    // A terminal that became narrower has wrapped what was drawn before.
    const rows = this.#drawn.map((line) => Math.max(1, Math.ceil(line.length / columns)));
    const height = rows.reduce((sum, count) => sum + count, 0);
    const up = height === 0 ? '' : `\x1b[${Math.min(height, room)}A`;
    // What follows overwrites before it erases, so that nothing flickers; but rows that the terminal has wrapped
    // would be joined again when it becomes wider, unless they are erased first.
    const erase = columns === this.#columns ? '' : '\x1b[J';

    this.#columns = columns;
    this.#drawn = lines.slice(0, room).map((line) => fit(line, this.width));
    const body = [...(above?.split('\n') ?? []), ...this.#drawn];
    this.#stream.write(`\r${up}${erase}${body.map((line) => `${line}\x1b[K\n`).join('')}\x1b[J`);
  }

  /** Writes whole lines above the region. */
  print(text: string): void {
    this.draw(this.#drawn, text);
  }

  /** Leaves the region as it is and shows the cursor. Calling it again does nothing. */
  close(): void {
    if (regions.get(this.#stream) !== this) return;
    regions.delete(this.#stream);
    process.off('exit', this.#showCursor);
    process.off('SIGINT', this.#onInterrupt);
    this.#showCursor();
  }

  readonly #showCursor = () => {
    this.#stream.write('\x1b[?25h');
  };

  readonly #onInterrupt = () => {
    this.#showCursor();
    if (process.listenerCount('SIGINT') > 1) return;
    // Nobody else handles Ctrl-C, so it ends the process as if this listener had never been.
    this.close();
    process.kill(process.pid, 'SIGINT');
  };
}

/** `text` on one line of at most `width` characters, without control characters. */
function fit(text: string, width: number): string {
  const plain = stripVTControlCharacters(text)
    .replaceAll(/\p{Cc}/gu, ' ')
    .trimEnd();
  return plain.length > width ? `${plain.slice(0, Math.max(0, width - 1))}…` : plain;
}
