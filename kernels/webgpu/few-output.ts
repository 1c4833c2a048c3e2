import { paramsBinding, pitchOf, readWeights, storageBuffers, weightType } from './binding.js';
import type { ExpertShape } from './expert-hidden.js';
import { outputRows } from './sum-pairs.js';

/** Columns of one workgroup of {@link fewOutputSource}: 32 bytes of each neuron's weights, which memory gives at once. */
export const FEW_COLUMNS = 8;

const QUADS = FEW_COLUMNS / 4;
/** Neurons that a workgroup goes through side by side. */
const LANES = 128;
const THREADS = LANES * QUADS;
/**
 * Neurons of a lane whose weights are on their way at once: one after the other would wait for memory each time. More
 * rows have more to do in the meantime, and their code would grow.
 */
const atOnce = (rowRoom: number) => Math.max(2, 8 / rowRoom);

/**
 * out = downBias + a few rows' output, or with a later part of the experts out += that part's output: a workgroup
 * {@link FEW_COLUMNS} columns of all rows. A neuron that is 0 in every row costs no weights.
 */
export function fewOutputSource(shape: ExpertShape, rowRoom: number): string {
  const { dOut, expertSize, storage } = shape;
  const pitch = pitchOf(dOut) / 4;
  const rows = Array.from({ length: rowRoom }, (_, row) => row);
  const neurons = Array.from({ length: atOnce(rowRoom) }, (_, neuron) => neuron);
  const output = outputRows(dOut);
  return `// Expert FFN of ${rowRoom} row${rowRoom === 1 ? '' : 's'}, output: ${storage}
${storageBuffers([
  ['hidden', 'f32', 'read'],
  ['down', weightType(storage), 'read'],
  ['downBias', 'vec4<f32>', 'read'],
  ['out', output.type, 'read_write'],
])}${paramsBinding(4)}
const ROWS = ${rowRoom}u;
const LANES = ${LANES}u;
var<workgroup> sums: array<vec4<f32>, ${THREADS}>;

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let count = params.experts * ${expertSize}u;
  let first = params.firstExpert * ${expertSize}u;
  let quad = group.x * ${QUADS}u + thread % ${QUADS}u;
  let lane = thread / ${QUADS}u;
${rows.map((row) => `  var sum${row} = vec4<f32>(0.0);`).join('\n')}
  if (quad < ${pitch}u) {
    for (var i = lane; i < count; i += ${neurons.length}u * LANES) {
${neurons
  .map((j) => {
    const values = rows.map((row) => `value${j}_${row}`);
    return `      let neuron${j} = i + ${j}u * LANES;
${values.map((value) => `      var ${value} = 0.0;`).join('\n')}
      if (neuron${j} < count) {
${values.map((value, row) => `        ${value} = hidden[(first + neuron${j}) * ROWS + ${row}u];`).join('\n')}
      }`;
  })
  .join('\n')}
${neurons
  .map(
    (j) => `      var weights${j} = vec4<f32>(0.0);
      if (${rows.map((row) => `value${j}_${row} != 0.0`).join(' || ')}) {
        weights${j} = ${readWeights('down', `neuron${j} * ${pitch}u + quad`, storage)};
      }`,
  )
  .join('\n')}
${neurons
  .flatMap((j) =>
    rows.map(
      (row) => `      sum${row} = fma(vec4<f32>(value${j}_${row}), weights${j}, sum${row});`,
    ),
  )
  .join('\n')}
    }
  }
${rows
  .map(
    (row) => `  {
    sums[thread] = sum${row};
    workgroupBarrier();
    for (var lanes = LANES / 2u; lanes > 0u; lanes /= 2u) {
      if (lane < lanes) {
        sums[thread] += sums[thread + lanes * ${QUADS}u];
      }
      workgroupBarrier();
    }
    if (lane == 0u && quad < ${pitch}u && ${row}u < params.rows) {
      let column = quad * 4u;
      var all = sums[thread];
      if (params.part == 0u) {
        all += downBias[quad];
      } else {
        all += ${output.read(`${row}u`, 'column')};
      }
      ${output.write(`${row}u`, 'column', 'all')}
    }
    workgroupBarrier();
  }`,
  )
  .join('\n')}
}
`;
}
