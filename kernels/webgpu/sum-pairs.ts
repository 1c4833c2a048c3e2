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

/**
 * out[row] = downBias + the row's pairs, in order of their experts, for one window's rows: a workgroup a row and
 * {@link SUM_COLUMNS} columns; workgroups beyond the window's rows have nothing to do.
 */
export function sumPairsSource(dOut: number): string {
  const pitch = pitchOf(dOut) / 4;
  const output = outputRows(dOut);
  return `// Expert FFN: sum up each row's pairs
${storageBuffers([
  ['outputs', 'vec4<f32>', 'read'],
  ['starts', 'u32', 'read'],
  ['downBias', 'vec4<f32>', 'read'],
  ['out', output.type, 'read_write'],
])}${paramsBinding(4)}

@compute @workgroup_size(${SUM_COLUMNS / 4})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let firstRow = starts[params.rows + 1u + params.window];
  let row = firstRow + group.x;
  let quad = group.y * ${SUM_COLUMNS / 4}u + thread;
  if (row >= starts[params.rows + 2u + params.window] || quad >= ${pitch}u) {
    return;
  }
  let base = starts[firstRow];
  let last = starts[row + 1u] - base;
  var sum = downBias[quad];
  for (var pair = starts[row] - base; pair < last; pair++) {
    sum += outputs[pair * ${pitch}u + quad];
  }
  let column = quad * 4u;
  ${output.write('row', 'column', 'sum')}
}
`;
}
