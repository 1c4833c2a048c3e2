import { paramsBinding, pitchOf, readWeights, storageBuffers, weightType } from './binding.js';
import type { ExpertShape } from './expert-hidden.js';
import { outputRows } from './sum-pairs.js';

/** Neurons that one workgroup of {@link fewOutputSource} sums over, and columns that it sums up. */
export const FEW_SPLIT = 32;
export const FEW_COLUMNS = 256;

const THREADS = FEW_COLUMNS / 4;
/**
 * Neurons whose weights are on their way at once: one after the other would wait for memory 32 times. More rows have more
 * to do in the meantime, and their code would grow. A divisor of FEW_SPLIT.
 */
const atOnce = (rowRoom: number) => Math.max(2, 8 / rowRoom);

/**
 * Shares of a few rows' output, one for {@link FEW_SPLIT} neurons: [split, rowRoom, pitchOf(dOut)]. A neuron that is 0 in
 * every row costs no weights.
 */
export function fewOutputSource(shape: ExpertShape, rowRoom: number): string {
  const { dOut, expertSize, storage } = shape;
  const pitch = pitchOf(dOut) / 4;
  const rows = Array.from({ length: rowRoom }, (_, row) => row);
  const neurons = Array.from({ length: atOnce(rowRoom) }, (_, neuron) => neuron);
  const value = (neuron: number, row: number) => `values[(i + ${neuron}u) * ROWS + ${row}u]`;
  return `// Expert FFN of ${rowRoom} row${rowRoom === 1 ? '' : 's'}, shares of the output: ${storage}
${storageBuffers([
  ['hidden', 'f32', 'read'],
  ['down', weightType(storage), 'read'],
  ['shares', 'vec4<f32>', 'read_write'],
])}${paramsBinding(3)}
const ROWS = ${rowRoom}u;
const SPLIT = ${FEW_SPLIT}u;
var<workgroup> values: array<f32, ${FEW_SPLIT * rowRoom}>;

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let count = params.experts * ${expertSize}u;
  let first = group.y * SPLIT;
  let neurons = min(SPLIT, count - first);
  for (var i = thread; i < neurons * ROWS; i += ${THREADS}u) {
    values[i] = hidden[(params.firstExpert * ${expertSize}u + first) * ROWS + i];
  }
  workgroupBarrier();
  let quad = group.x * ${THREADS}u + thread;
  if (quad >= ${pitch}u) {
    return;
  }
${rows.map((row) => `  var sum${row} = vec4<f32>(0.0);`).join('\n')}
  // Behind the last neuron values are 0, as workgroup memory begins.
  for (var i = 0u; i < neurons; i += ${neurons.length}u) {
${neurons
  .map(
    (j) => `    var weights${j} = vec4<f32>(0.0);
    if (${rows.map((row) => `${value(j, row)} != 0.0`).join(' || ')}) {
      weights${j} = ${readWeights('down', `(first + i + ${j}u) * ${pitch}u + quad`, storage)};
    }`,
  )
  .join('\n')}
${neurons
  .flatMap((j) =>
    rows.map((row) => `    sum${row} = fma(vec4<f32>(${value(j, row)}), weights${j}, sum${row});`),
  )
  .join('\n')}
  }
  let split = params.part * ((params.partExperts * ${expertSize}u + SPLIT - 1u) / SPLIT) + group.y;
${rows.map((row) => `  shares[(split * ROWS + ${row}u) * ${pitch}u + quad] = sum${row};`).join('\n')}
}
`;
}

const SUM_LANES = 8;
/** Columns of one workgroup of {@link fewSumSource}. */
export const FEW_SUM_COLUMNS = 128;

/** out = downBias + all shares: a workgroup a row and {@link FEW_SUM_COLUMNS} columns. `params.tileRoom` is their number. */
export function fewSumSource(dOut: number, rowRoom: number): string {
  const pitch = pitchOf(dOut) / 4;
  const quads = FEW_SUM_COLUMNS / 4;
  const output = outputRows(dOut);
  return `// Expert FFN of ${rowRoom} row${rowRoom === 1 ? '' : 's'}: sum up the shares
${storageBuffers([
  ['shares', 'vec4<f32>', 'read'],
  ['downBias', 'vec4<f32>', 'read'],
  ['out', output.type, 'read_write'],
])}${paramsBinding(3)}
var<workgroup> sums: array<vec4<f32>, ${quads * SUM_LANES}>;

@compute @workgroup_size(${quads * SUM_LANES})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.y;
  let quad = group.x * ${quads}u + thread % ${quads}u;
  let lane = thread / ${quads}u;
  var own = vec4<f32>(0.0);
  if (quad < ${pitch}u) {
    for (var split = lane; split < params.tileRoom; split += ${SUM_LANES}u) {
      own += shares[(split * ${rowRoom}u + row) * ${pitch}u + quad];
    }
  }
  sums[thread] = own;
  workgroupBarrier();
  if (lane != 0u || quad >= ${pitch}u) {
    return;
  }
  var sum = downBias[quad];
  for (var i = 0u; i < ${SUM_LANES}u; i++) {
    sum += sums[i * ${quads}u + thread];
  }
  let column = quad * 4u;
  ${output.write('row', 'column', 'sum')}
}
`;
}
