import { activationSource } from './activation.js';
import { paramsBinding, pitchOf, readWeights, storageBuffers, weightType } from './binding.js';
import { type ExpertShape, inputRows } from './expert-hidden.js';

const LANES = 32;
/** Neurons of one workgroup of {@link fewHiddenSource}. */
export const FEW_NEURONS = 8;

/**
 * How many of a lane's quads are on their way at once: one after the other would wait for memory each time. More rows have
 * more to do in the meantime, and their code would grow. 1 where the lanes' quads do not come out even.
 */
function atOnce(quads: number, rowRoom: number): number {
  let steps = Math.max(2, 8 / rowRoom);
  while (steps > 1 && quads % (LANES * steps) !== 0) steps--;
  return steps;
}

/**
 * The hidden activations of a few rows, 0 where a row does not run the neuron's expert: [hidden, rowRoom], neuron-major.
 * {@link FEW_NEURONS} neurons a workgroup, 32 lanes a neuron; weights of experts that no row runs are not read.
 *
 * @param rowRoom Rows that there is room for; those from params.rows on are left 0.
 * @param subgroup Threads of a subgroup, which add up a neuron's lanes without workgroup memory as far as they go; 0 for
 *   none.
 */
export function fewHiddenSource(shape: ExpertShape, rowRoom: number, subgroup = 0): string {
  const { dIn, expertSize, experts, activation, gated, storage } = shape;
  const weights = weightType(storage);
  const input = inputRows(dIn);
  const matrices = gated ? ['up', 'gate'] : ['up'];
  const quads = pitchOf(dIn) / 4;
  const rows = Array.from({ length: rowRoom }, (_, row) => row);
  const steps = Array.from({ length: atOnce(quads, rowRoom) }, (_, step) => step);
  const sum = (matrix: string, row: number | string) => `${matrix}Sums[${row}]`;
  const isSubgrouped = subgroup > 1 && LANES % subgroup === 0;
  /** Threads that have a share of a sum together. */
  const sharers = isSubgrouped ? subgroup : 1;
  const combined = (matrix: number) => `total(${matrix}u * ROWS + row, neuron)`;
  return `// Expert FFN of ${rowRoom} row${rowRoom === 1 ? '' : 's'}, hidden activations: ${gated ? 'gated, ' : ''}${activation}, ${storage}
${isSubgrouped ? 'enable subgroups;\n' : ''}${storageBuffers([
  ['x', input.type, 'read'],
  ...matrices.map((name) => [name, weights, 'read'] as const),
  ['biases', 'f32', 'read'],
  ['selection', 'i32', 'read'],
  ['hidden', 'f32', 'read_write'],
])}${paramsBinding(matrices.length + 4)}
const ROWS = ${rowRoom}u;
const LANES = ${LANES}u;
const NEURONS = ${FEW_NEURONS}u;
// Of a neuron's sum.
const SHARES = ${LANES / sharers}u;
var<workgroup> shares: array<f32, ${(matrices.length * rowRoom * FEW_NEURONS * LANES) / sharers}>;
${activationSource(activation)}

fn total(sums: u32, neuron: u32) -> f32 {
  let line = sums * NEURONS + neuron;
  var all = 0.0;
  for (var i = 0u; i < SHARES; i++) {
    // Each line from another place: neighbouring threads meet different banks.
    all += shares[line * SHARES + (i + line) % SHARES];
  }
  return all;
}

@compute @workgroup_size(${LANES * FEW_NEURONS})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let count = params.experts * ${expertSize}u;
  let lane = thread % LANES;
  let own = group.x * NEURONS + thread / LANES;
  let expert = params.firstExpert + min(own, count - 1u) / ${expertSize}u;
  var isRun = false;
  for (var row = 0u; row < params.rows; row++) {
    isRun = isRun || selection[row * ${experts}u + expert] != 0;
  }
${matrices.map((matrix) => `  var ${matrix}Sums: array<f32, ${rowRoom}>;`).join('\n')}
  if (isRun && own < count) {
    for (var quad = lane; quad < ${quads}u; quad += ${LANES * steps.length}u) {
${steps
  .flatMap((step) =>
    matrices.map(
      (matrix) =>
        `      let ${matrix}Weights${step} = ${readWeights(matrix, `own * ${quads}u + quad + ${step * LANES}u`, storage)};`,
    ),
  )
  .join('\n')}
${steps
  .flatMap((step) =>
    rows.map(
      (row) => `      {
        let terms = ${input.read(`(min(${row}u, params.rows - 1u) * ${dIn}u)`, `((quad + ${step * LANES}u) * 4u)`)};
${matrices.map((matrix) => `        ${sum(matrix, row)} += dot(terms, ${matrix}Weights${step});`).join('\n')}
      }`,
    ),
  )
  .join('\n')}
    }
  }
${matrices
  .flatMap((matrix, index) =>
    rows.map((row) => {
      const at = (index * rowRoom + row) * FEW_NEURONS * (LANES / sharers);
      return isSubgrouped
        ? `  ${sum(matrix, row)} = subgroupAdd(${sum(matrix, row)});
  if (thread % ${sharers}u == 0u) {
    shares[${at}u + thread / ${sharers}u] = ${sum(matrix, row)};
  }`
        : `  shares[${at}u + thread] = ${sum(matrix, row)};`;
    }),
  )
  .join('\n')}
  workgroupBarrier();
  if (thread < NEURONS * ROWS) {
    let neuron = thread / ROWS;
    let row = thread % ROWS;
    let place = group.x * NEURONS + neuron;
    if (place < count) {
      let at = params.firstExpert * ${expertSize}u + place;
      var value = 0.0;
      if (row < params.rows && selection[row * ${experts}u + at / ${expertSize}u] != 0) {
        let up = ${combined(0)} + biases[at];
        ${
          gated
            ? `let gate = ${combined(1)} + biases[${experts * expertSize}u + at];
        value = activate(vec4<f32>(gate)).x * up;`
            : 'value = activate(vec4<f32>(up)).x;'
        }
      }
      hidden[at * ROWS + row] = value;
    }
  }
}
`;
}
