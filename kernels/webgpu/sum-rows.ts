import { paramsBinding, pitchOf, storageBuffers } from './binding.js';
import { NO_RANK, rankedBits } from './ranked-bits.js';
import { outputRows, SUM_COLUMNS } from './sum-pairs.js';

const THREADS = SUM_COLUMNS / 4;
/** Pairs of a row that are on their way at once. */
const AT_ONCE = 8;

/**
 * out[row] = downBias + the row's pairs in order of its experts, where `outputs` has a place for every row of every
 * expert, [experts, N, pitchOf(dOut)]. A workgroup has {@link SUM_COLUMNS} columns of a row.
 *
 * @param experts n
 */
export function sumRowsSource(dOut: number, experts: number): string {
  const pitch = pitchOf(dOut) / 4;
  const words = Math.ceil(experts / 32);
  const output = outputRows(dOut);
  const together = Array.from({ length: AT_ONCE }, (_, i) => i);
  return `// Expert FFN: sum up each row's experts
${storageBuffers([
  ['outputs', 'vec4<f32>', 'read'],
  ['selection', 'i32', 'read'],
  ['downBias', 'vec4<f32>', 'read'],
  ['out', output.type, 'read_write'],
])}${paramsBinding(4)}
const EXPERTS = ${experts}u;
const THREADS = ${THREADS}u;
// A bit for each expert that the row has, and those experts in their order.${rankedBits(words)}
var<workgroup> rowExperts: array<u32, EXPERTS>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let row = group.x;
  for (var expert = thread; expert < EXPERTS; expert += THREADS) {
    if (selection[row * EXPERTS + expert] != 0) {
      setBit(expert);
    }
  }
  workgroupBarrier();
  for (var expert = thread; expert < EXPERTS; expert += THREADS) {
    let rank = rankOf(expert);
    if (rank != ${NO_RANK}) {
      rowExperts[rank] = expert;
    }
  }
  let count = countBits(${words}u);
  workgroupBarrier();
  let quad = group.y * THREADS + thread;
  if (quad >= ${pitch}u) {
    return;
  }
  let column = quad * 4u;
  var sum = downBias[quad];
  for (var i = 0u; i < count; i += ${AT_ONCE}u) {
    // Behind the last one its pair is read again, so that no read waits for a condition.
${together
  .map(
    (j) =>
      `    let value${j} = outputs[(rowExperts[min(i + ${j}u, count - 1u)] * params.rows + row) * ${pitch}u + quad];`,
  )
  .join('\n')}
${together.map((j) => `    sum += select(vec4<f32>(0.0), value${j}, i + ${j}u < count);`).join('\n')}
  }
  ${output.write('row', 'column', 'sum')}
}
`;
}
