import { paramsBinding, pitchOf, storageBuffers } from './binding.js';

/** Columns of one workgroup of {@link sumPairsSource}. */
export const SUM_COLUMNS = 256;

/** Four numbers of a row of `out` at a time where rows begin at a vec4, one at a time else. */
export function outputRows(dOut: number): {
  type: string;
  read: (row: string, column: string) => string;
  write: (row: string, column: string, value: string) => string;
} {
  if (dOut % 4 === 0) {
    return {
      type: 'vec4<f32>',
      read: (row, column) => `out[${row} * ${dOut / 4}u + (${column}) / 4u]`,
      write: (row, column, value) => `out[${row} * ${dOut / 4}u + (${column}) / 4u] = ${value};`,
    };
  }
  return {
    type: 'f32',
    read: (row, column) => {
      const one = (i: number) => `out[${row} * ${dOut}u + min(${column} + ${i}u, ${dOut - 1}u)]`;
      return `vec4<f32>(${[0, 1, 2, 3].map(one).join(', ')})`;
    },
    write: (row, column, value) =>
      [0, 1, 2, 3]
        .map(
          (i) => `if (${column} + ${i}u < ${dOut}u) {
      out[${row} * ${dOut}u + ${column} + ${i}u] = ${value}[${i}];
    }`,
        )
        .join('\n    '),
  };
}

const THREADS = SUM_COLUMNS / 4;
/** Pairs of a row that are on their way at once. */
const AT_ONCE = 4;

/**
 * out[row] = downBias + the row's pairs of the first window, and with each later window out[row] += its pairs there: in
 * order of the row's experts, whatever the windows. A workgroup has {@link SUM_COLUMNS} columns of a row and of the next
 * ones at the distance of all workgroups.
 *
 * @param experts n
 */
export function sumPairsSource(dOut: number, experts: number): string {
  const pitch = pitchOf(dOut) / 4;
  const output = outputRows(dOut);
  const together = Array.from({ length: AT_ONCE }, (_, i) => i);
  return `// Expert FFN: sum up each row's pairs
${storageBuffers([
  ['outputs', 'vec4<f32>', 'read'],
  ['pairs', 'vec2<u32>', 'read'],
  ['counts', 'u32', 'read'],
  ['firsts', 'u32', 'read'],
  ['tiles', 'vec4<u32>', 'read'],
  ['downBias', 'vec4<f32>', 'read'],
  ['out', output.type, 'read_write'],
])}${paramsBinding(7)}
const EXPERTS = ${experts}u;
const THREADS = ${THREADS}u;
// Of a pair that the window has not.
const NONE = 0xffffffffu;
var<workgroup> places: array<u32, THREADS>;

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let windowTile = params.window * params.tileRoom;
  let tileCount = tiles[params.tiles + params.parts - 1u].y;
  if (params.window > 0u && windowTile >= tileCount) {
    return;
  }
  let firstPair = select(0u, tiles[windowTile].w, params.window > 0u);
  var lastPair = firsts[EXPERTS];
  if (windowTile + params.tileRoom < tileCount) {
    lastPair = tiles[windowTile + params.tileRoom].w;
  }
  let quad = group.y * THREADS + thread;
  let column = quad * 4u;
  for (var row = group.x; row < params.rows; row += groups.x) {
    var sum = vec4<f32>(0.0);
    if (quad < ${pitch}u) {
      if (params.window == 0u) {
        sum = downBias[quad];
      } else {
        sum = ${output.read('row', 'column')};
      }
    }
    let count = counts[row];
    for (var done = 0u; done < count; done += THREADS) {
      workgroupBarrier();
      var place = NONE;
      if (done + thread < count) {
        let pair = pairs[row * EXPERTS + done + thread];
        let at = firsts[pair.x] + pair.y;
        if (at >= firstPair && at < lastPair) {
          place = at - firstPair;
        }
      }
      places[thread] = place;
      workgroupBarrier();
      if (quad < ${pitch}u) {
        for (var i = 0u; i < min(THREADS, count - done); i += ${AT_ONCE}u) {
${together
  .map(
    (j) => `          var value${j} = vec4<f32>(0.0);
          if (places[i + ${j}u] != NONE) {
            value${j} = outputs[places[i + ${j}u] * ${pitch}u + quad];
          }`,
  )
  .join('\n')}
${together.map((j) => `          sum += value${j};`).join('\n')}
        }
      }
    }
    if (quad < ${pitch}u) {
      ${output.write('row', 'column', 'sum')}
    }
  }
}
`;
}
