/** How a workgroup's tile of a product is cut up. */
export interface Tile {
  /** Rows and columns of the tile; multiples of four times a thread's share of them. */
  rows: number;
  columns: number;
  /** Terms of the sums in workgroup memory at a time; a multiple of 4. */
  depth: number;
  /** Rows and columns of one thread; multiples of 4. */
  threadRows: number;
  threadColumns: number;
  /**
   * Groups of threads that the terms in workgroup memory are divided among; a divisor of `depth` and `threadRows`. Each
   * group has all of the tile's sums, and threads that wait for memory are that many more.
   */
  split: number;
}

/** A product C = A·B of which a workgroup computes one {@link Tile}, written into the body of its kernel. */
export interface TiledProduct {
  tile: Tile;
  /** Terms of each sum. */
  inner: number;
  /** Names of the right-hand matrices, one or two, each giving sums of its own: `sum0_…` and `sum1_…`. */
  right: readonly string[];
  /**
   * Whether four neighbours in memory of a right-hand matrix are four terms of one column (its rows are then transposed
   * on their way) or four columns.
   */
  rightInner: boolean;
  /**
   * Statements that declare what `left` needs for row `row` of the tile, with names ending in `suffix`. They run once.
   */
  prepareLeft: (row: string, suffix: string) => string;
  /** The expression for four terms from `k` on of that row; k is a multiple of 4. */
  left: (suffix: string, k: string) => string;
  /** As prepareLeft, of column `column` of right-hand matrix `index`; four columns where not rightInner. */
  prepareRight: (index: number, column: string, suffix: string) => string;
  /**
   * The expression for four neighbours of a right-hand matrix: terms from `k` on of a column, or term `k` of four columns.
   */
  readRight: (matrix: string, suffix: string, k: string) => string;
}

/** The threads of a workgroup. */
export function tileThreads(tile: Tile): number {
  return groupThreads(tile) * tile.split;
}

/** The threads that have a tile's sums among them. */
function groupThreads({ rows, columns, threadRows, threadColumns }: Tile): number {
  return (rows / threadRows) * (columns / threadColumns);
}

/** Bytes of workgroup memory. */
export function tileBytes(tile: Tile, rightMatrices: number): number {
  return 16 * Math.max(operandQuads(tile, rightMatrices), exchangeQuads(tile, rightMatrices));
}

/** vec4 of workgroup memory that both sides take. */
function operandQuads({ rows, columns, depth }: Tile, rightMatrices: number): number {
  return depth * (rows / 4 + 1 + rightMatrices * (columns / 4 + 1));
}

/** vec4 of the sums that go from one group of threads to another. */
function exchangeQuads({ rows, columns, split }: Tile, rightMatrices: number): number {
  return ((split - 1) * rightMatrices * rows * columns) / 4;
}

const range = (count: number) => Array.from({ length: count }, (_, i) => i);
const parts = ['x', 'y', 'z', 'w'] as const;

/** Module-scope declarations of {@link productBody}. */
export function productDeclarations({ tile, right }: TiledProduct): string {
  const { rows, columns, depth, split } = tile;
  if (split > 1) {
    return `// Both sides of the product, and once it is done the sums that groups of threads have for each other.
var<workgroup> sides: array<vec4<f32>, ${tileBytes(tile, right.length) / 16}>;`;
  }
  const buffers = right.map(
    (_, index) =>
      `var<workgroup> rightTile${index}: array<vec4<f32>, ${depth * (columns / 4 + 1)}>;`,
  );
  return [`var<workgroup> leftTile: array<vec4<f32>, ${depth * (rows / 4 + 1)}>;`, ...buffers].join(
    '\n',
  );
}

/** The expression for a vec4 of one side in workgroup memory: of right-hand matrix `index`, or where it is -1 of the left. */
function sideQuad({ rows, columns, depth, split }: Tile, index: number, at: string): string {
  if (split === 1) return `${index === -1 ? 'leftTile' : `rightTile${index}`}[${at}]`;
  const before = index === -1 ? 0 : depth * (rows / 4 + 1 + index * (columns / 4 + 1));
  return `sides[${before}u + ${at}]`;
}

/**
 * The statements that compute a tile: float32 sums in registers, `depth` terms of both sides at a time in workgroup
 * memory as vec4 of four rows (columns), the next ones read while these are multiplied. They expect `thread` to be the
 * local invocation's index and leave, for thread row i and vec4 of columns j, `sum0_i_j` (and `sum1_i_j`), `row_i`, the
 * row of the tile, and `column_j`, the first of four columns. Where the tile is split, every thread is left a share of its
 * rows, which it sums up over the groups in their order.
 */
export function productBody(product: TiledProduct): string {
  const { tile, inner, right } = product;
  const { rows, columns, depth, threadRows, threadColumns, split } = tile;
  const threads = tileThreads(tile);
  const members = groupThreads(tile);
  const rowQuads = rows / threadRows;
  const columnQuads = columns / threadColumns;
  const leftPitch = rows / 4 + 1;
  const rightPitch = columns / 4 + 1;
  const isWhole = inner % depth === 0;

  // A unit is a 4×4 block that one thread brings from memory to memory.
  const depthUnits = depth / 4;
  const leftUnits = (rows / 4) * depthUnits;
  const rightUnits = (columns / 4) * depthUnits;
  const units = leftUnits + right.length * rightUnits;
  const turns = range(Math.ceil(units / threads));
  /** The kinds of unit that a turn of all threads meets, each under the condition that a thread has one of it. */
  const kinds = (turn: number) => {
    const from = turn * threads;
    const to = Math.min(from + threads, units);
    const sources = [
      { index: -1, name: 'left', begin: 0, end: leftUnits },
      ...right.map((name, index) => ({
        index,
        name,
        begin: leftUnits + index * rightUnits,
        end: leftUnits + (index + 1) * rightUnits,
      })),
    ];
    return sources
      .filter(({ begin, end }) => begin < to && end > from)
      .map(({ index, name, begin, end }) => {
        const conditions = [
          begin > from && `unit${turn} >= ${begin}u`,
          end < from + threads && `unit${turn} < ${end}u`,
        ].filter(Boolean);
        return { index, name, begin, condition: conditions.join(' && ') };
      });
  };
  const guarded = (condition: string, body: string) =>
    condition === '' ? `{${body}\n}` : `if (${condition}) {${body}\n}`;
  // Neighbouring threads read one row from end to end. Where groups of threads share the terms, two read 32 bytes of a row
  // and the next two the next quad's, so that what eight of them write to workgroup memory lies in different banks.
  const sideBySide = split > 1 && depthUnits % 2 === 0 ? 2 : depthUnits;
  /** A unit's place: terms 4·q… and row or column quad g. Neighbouring threads read neighbouring memory. */
  const place = (turn: number, index: number, begin: number) => {
    const quads = (index === -1 ? rows : columns) / 4;
    const unit = `(unit${turn} - ${begin}u)`;
    if (index !== -1 && !product.rightInner) {
      return { q: `${unit} / ${quads}u`, g: `${unit} % ${quads}u` };
    }
    if (sideBySide === depthUnits) {
      return { q: `${unit} % ${depthUnits}u`, g: `${unit} / ${depthUnits}u` };
    }
    return {
      q: `${unit} % ${sideBySide}u + ${unit} / ${sideBySide * quads}u * ${sideBySide}u`,
      g: `${unit} / ${sideBySide}u % ${quads}u`,
    };
  };

  const prepare = turns
    .map((turn) => {
      const prepared = kinds(turn).map(({ index, begin }) => {
        const { q, g } = place(turn, index, begin);
        const suffix = `${turn}_${index + 1}`;
        const names = `
  let q${suffix} = ${q};
  let g${suffix} = ${g};`;
        if (index === -1) {
          return (
            names +
            range(4)
              .map((j) => product.prepareLeft(`(g${suffix} * 4u + ${j}u)`, `${suffix}_${j}`))
              .join('')
          );
        }
        if (!product.rightInner) {
          return names + product.prepareRight(index, `(g${suffix} * 4u)`, `${suffix}_0`);
        }
        return (
          names +
          range(4)
            .map((j) => product.prepareRight(index, `(g${suffix} * 4u + ${j}u)`, `${suffix}_${j}`))
            .join('')
        );
      });
      return `
  let unit${turn} = thread + ${turn * threads}u;
  var held${turn}_0: vec4<f32>;
  var held${turn}_1: vec4<f32>;
  var held${turn}_2: vec4<f32>;
  var held${turn}_3: vec4<f32>;${prepared.join('')}`;
    })
    .join('');

  const load = turns
    .flatMap((turn) =>
      kinds(turn).map(({ index, name, condition }) => {
        const suffix = `${turn}_${index + 1}`;
        const isTransposed = index === -1 || product.rightInner;
        const lines = range(4).map((j) => {
          const k = isTransposed ? `(k0 + q${suffix} * 4u)` : `(k0 + q${suffix} * 4u + ${j}u)`;
          const value =
            index === -1
              ? product.left(`${suffix}_${j}`, k)
              : product.readRight(name, isTransposed ? `${suffix}_${j}` : `${suffix}_0`, k);
          // A select would read out of bounds all the same.
          return isWhole
            ? `
    held${turn}_${j} = ${value};`
            : `
    held${turn}_${j} = vec4<f32>(0.0);
    if (${k} < ${inner}u) {
      held${turn}_${j} = ${value};
    }`;
        });
        return guarded(condition, lines.join(''));
      }),
    )
    .join('\n');

  const store = turns
    .flatMap((turn) =>
      kinds(turn).map(({ index, condition }) => {
        const suffix = `${turn}_${index + 1}`;
        const isTransposed = index === -1 || product.rightInner;
        const pitch = index === -1 ? leftPitch : rightPitch;
        const lines = range(4).map((j) => {
          const value = isTransposed
            ? `vec4<f32>(${range(4)
                .map((i) => `held${turn}_${i}.${parts[j]}`)
                .join(', ')})`
            : `held${turn}_${j}`;
          return `
    ${sideQuad(tile, index, `(q${suffix} * 4u + ${j}u) * ${pitch}u + g${suffix}`)} = ${value};`;
        });
        return guarded(condition, lines.join(''));
      }),
    )
    .join('\n');

  const rowGroups = range(threadRows / 4);
  const columnGroups = range(threadColumns / 4);
  const sums = right
    .flatMap((_, index) =>
      range(threadRows).flatMap((i) =>
        columnGroups.map(
          (j) => `
  var sum${index}_${i}_${j} = vec4<f32>(0.0);`,
        ),
      ),
    )
    .join('');
  const multiply = [
    ...rowGroups.map(
      (i) => `
      let left${i} = ${sideQuad(tile, -1, `k * ${leftPitch}u + threadRow + ${i * rowQuads}u`)};`,
    ),
    ...right.flatMap((_, index) => [
      ...columnGroups.map(
        (j) => `
      let right${index}_${j} = ${sideQuad(tile, index, `k * ${rightPitch}u + threadColumn + ${j * columnQuads}u`)};`,
      ),
      ...range(threadRows).flatMap((row) =>
        columnGroups.map((j) => {
          const sum = `sum${index}_${row}_${j}`;
          return `
      ${sum} = fma(vec4<f32>(left${Math.floor(row / 4)}.${parts[row % 4]}), right${index}_${j}, ${sum});`;
        }),
      ),
    ]),
  ].join('');

  const slices =
    split === 1
      ? ''
      : `
  let slice = thread / ${members}u;
  let member = thread % ${members}u;
  let firstTerm = slice * ${depth / split}u;`;
  const member = split === 1 ? 'thread' : 'member';
  // Eight neighbouring threads in columns and four in rows read the fewest different quads of both sides.
  const isBlocked = columnQuads % 8 === 0 && rowQuads % 4 === 0;
  const position = isBlocked
    ? `
  let block = ${member} / 32u;
  let threadRow = block / ${columnQuads / 8}u * 4u + ${member} % 32u / 8u;
  let threadColumn = block % ${columnQuads / 8}u * 8u + ${member} % 8u;`
    : `
  let threadRow = ${member} / ${columnQuads}u;
  let threadColumn = ${member} % ${columnQuads}u;`;
  const terms =
    split === 1
      ? `for (var k = 0u; k < ${depth}u; k++) {${multiply}`
      : `for (var term = 0u; term < ${depth / split}u; term++) {
      let k = firstTerm + term;${multiply}`;
  const ownRow = (row: number) =>
    split === 1
      ? `
  let row_${row} = (threadRow + ${Math.floor(row / 4) * rowQuads}u) * 4u + ${row % 4}u;`
      : `
  let own_${row} = slice * ${threadRows / split}u + ${row}u;
  let row_${row} = (threadRow + own_${row} / 4u * ${rowQuads}u) * 4u + own_${row} % 4u;`;

  return `${slices}${position}${prepare}${sums}
  var k0 = 0u;
${load}
  loop {
    workgroupBarrier();
${store}
    workgroupBarrier();
    k0 += ${depth}u;
    if (k0 < ${inner}u) {
${load}
    }
    ${terms}
    }
    if (k0 >= ${inner}u) {
      break;
    }
  }${split === 1 ? '' : addGroups(product)}${range(threadRows / split)
    .map(ownRow)
    .join('')}${columnGroups
    .map(
      (j) => `
  let column_${j} = (threadColumn + ${j * columnQuads}u) * 4u;`,
    )
    .join('')}`;
}

/**
 * Adds up the sums of the groups of threads in the order of their terms. Group s is left rows s·share… of each thread's,
 * as its first `share` rows of sums; of the others' sums of these it reads what they have put into workgroup memory.
 */
function addGroups({ tile, right }: TiledProduct): string {
  const { threadRows, threadColumns, split } = tile;
  const share = threadRows / split;
  const members = groupThreads(tile);
  const groups = range(split);
  const sums = right.flatMap((_, index) =>
    range(share).flatMap((i) =>
      range(threadColumns / 4).map((j) => ({
        /** The name in group `s`'s share. */
        of: (s: number) => `sum${index}_${s * share + i}_${j}`,
      })),
    ),
  );
  const stride = sums.length * members;
  const give = groups.map(
    (to) => `
  if (slice != ${to}u) {
    let at = (${to * (split - 1)}u + slice - u32(slice > ${to}u)) * ${stride}u + member;${sums
      .map(
        ({ of }, i) => `
    sides[at + ${i * members}u] = ${of(to)};`,
      )
      .join('')}
  }`,
  );
  const take = groups.map((to) => {
    const totals = sums.map(({ of }, i) => {
      const terms = groups.map((from) => {
        const place = to * (split - 1) + (from > to ? from - 1 : from);
        return from === to ? of(to) : `sides[member + ${place * stride + i * members}u]`;
      });
      return `
    ${of(0)} = ${terms.join(' + ')};`;
    });
    return `
  if (slice == ${to}u) {${totals.join('')}
  }`;
  });
  return `
  workgroupBarrier();${give.join('')}
  workgroupBarrier();${take.join('')}`;
}

/** A statement for every vec4 of sums that a thread is left: `(row, column)` are the indices of `sum…_row_column`. */
export function eachSum(
  { threadRows, threadColumns, split }: Tile,
  row: (row: number, columns: string) => string,
  column: (row: number, column: number) => string,
): string {
  return range(threadRows / split)
    .map((i) =>
      row(
        i,
        range(threadColumns / 4)
          .map((j) => column(i, j))
          .join(''),
      ),
    )
    .join('');
}
