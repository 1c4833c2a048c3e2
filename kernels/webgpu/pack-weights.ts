import { storageBuffers, weightType, type WeightStorage } from './binding.js';

export const PACK_THREADS = 256;

/**
 * Copies rows of `width` float32 numbers, from number params.x of `source` on, into rows that begin at a vec4, zeros
 * behind each, in the storage's form. params.y is the number of rows.
 */
export function packWeightsSource(width: number, storage: WeightStorage): string {
  const quads = Math.ceil(width / 4);
  const packed =
    storage === 'float16' ? 'vec2<u32>(pack2x16float(value.xy), pack2x16float(value.zw))' : 'value';
  return `// Pack weights: ${storage}
${storageBuffers([
  ['source', 'f32', 'read'],
  ['packed', weightType(storage), 'read_write'],
])}
@group(0) @binding(2) var<uniform> params: vec4<u32>;

@compute @workgroup_size(${PACK_THREADS})
fn main(
  @builtin(global_invocation_id) place: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  for (var i = place.x; i < params.y * ${quads}u; i += groups.x * ${PACK_THREADS}u) {
    let column = i % ${quads}u * 4u;
    let start = params.x + i / ${quads}u * ${width}u;
    var value = vec4<f32>(0.0);
    for (var j = 0u; j < 4u && column + j < ${width}u; j++) {
      value[j] = source[start + column + j];
    }
    packed[i] = ${packed};
  }
}
`;
}
