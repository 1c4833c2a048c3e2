import { storageBuffers } from './binding.js';

/** Lanes of the workgroup that selects one row's experts. */
const LANES = 64;

/** Rows of one dispatch in x; more rows go on in y. */
export const SELECT_ROWS_X = 32768;

/** Which rule of @d2dmoe/kernels. */
export type Rule = 'threshold' | 'topK' | 'cumulativeShare';

const rules: Record<Rule, { prepare: string; isSelected: string }> = {
  threshold: {
    prepare: 'let greatest = reduceMax(lane, start);',
    // A threshold of 0 runs all, also where no norm is positive; else such a row keeps its first expert.
    isSelected: `
    let norm = norms[start + i];
    let isSelected = params.value == 0.0 ||
      select(i == 0u, norm >= params.value * greatest, greatest > 0.0);`,
  },
  topK: {
    prepare: '',
    isSelected: `
    let isSelected = f32(before(start, i).x) < params.value;`,
  },
  cumulativeShare: {
    prepare: 'let needed = params.value * reduceSum(lane, start);',
    isSelected: `
    let greater = before(start, i);
    let isSelected = greater.x == 0.0 || greater.y < needed;`,
  },
};

/**
 * Selects each row's experts: norms float32 [N, n] → selection int32 [N, n], 0 or 1, which is tfjs's bool. A workgroup a
 * row. For topK and cumulativeShare each lane counts (and sums) the norms that rank before its own, ties by number, in
 * n·n comparisons a row.
 *
 * @param experts n
 */
export function selectExpertsSource(rule: Rule, experts: number): string {
  const { prepare, isSelected } = rules[rule];
  const reduce = (name: string, combine: string) => `
fn ${name}(lane: u32, start: u32) -> f32 {
  var own = 0.0;
  for (var i = lane; i < EXPERTS; i += LANES) {
    let next = norms[start + i];
    own = ${combine};
  }
  shares[lane] = own;
  workgroupBarrier();
  var all = 0.0;
  for (var i = 0u; i < LANES; i++) {
    let own = all;
    let next = shares[i];
    all = ${combine};
  }
  return all;
}`;
  const helpers: Record<Rule, string> = {
    threshold: `var<workgroup> shares: array<f32, LANES>;${reduce('reduceMax', 'max(own, next)')}`,
    topK: ranking,
    cumulativeShare: `var<workgroup> shares: array<f32, LANES>;${reduce('reduceSum', 'own + next')}${ranking}`,
  };
  return `// Select experts: ${rule}
struct Params {
  value: f32,
  rows: u32,
}
${storageBuffers([
  ['norms', 'f32', 'read'],
  ['selection', 'i32', 'read_write'],
])}
@group(0) @binding(2) var<uniform> params: Params;
const EXPERTS = ${experts}u;
const LANES = ${LANES}u;
${helpers[rule]}
@compute @workgroup_size(${LANES})
fn main(
  @builtin(workgroup_id) group: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let row = group.y * ${SELECT_ROWS_X}u + group.x;
  if (row >= params.rows) {
    return;
  }
  let start = row * EXPERTS;
  ${prepare}
  for (var i = lane; i < EXPERTS; i += LANES) {${isSelected}
    selection[start + i] = select(0, 1, isSelected);
  }
}
`;
}

const ranking = `
// How many norms of the row rank before norm i, and their sum.
fn before(start: u32, i: u32) -> vec2<f32> {
  let norm = norms[start + i];
  var found = vec2<f32>(0.0);
  for (var j = 0u; j < EXPERTS; j++) {
    let other = norms[start + j];
    if (other > norm || (other == norm && j < i)) {
      found += vec2<f32>(1.0, other);
    }
  }
  return found;
}`;
