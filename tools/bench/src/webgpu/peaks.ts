import { type Times, summarize } from '../statistics.js';

/** What this device does at most, as far as WGSL gets it to. */
export interface Peaks {
  /** float32 operations in a millisecond, a multiply-add counted as two. */
  operationsPerMillisecond: number;
  /** Bytes read and written in a millisecond by a copy. */
  bytesPerMillisecond: number;
}

const THREADS = 256;
const STEPS = 4096;
/** Independent sums of a thread, vec4 each: enough to hide a multiply-add's latency. */
const SUMS = 8;

const sums = Array.from({ length: SUMS }, (_, i) => i);
const multiplyAdds = `
@group(0) @binding(0) var<storage, read_write> out: array<vec4<f32>>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(global_invocation_id) place: vec3<u32>) {
  let factor = vec4<f32>(out[0].x);
${sums.map((i) => `  var sum${i} = vec4<f32>(f32(place.x + ${i}u));`).join('\n')}
  for (var step = 0u; step < ${STEPS}u; step++) {
${sums.map((i) => `    sum${i} = fma(sum${i}, factor, factor);`).join('\n')}
  }
  out[place.x] = ${sums.map((i) => `sum${i}`).join(' + ')};
}`;

const copy = `
@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<f32>>;

@compute @workgroup_size(${THREADS})
fn main(
  @builtin(global_invocation_id) place: vec3<u32>,
  @builtin(num_workgroups) groups: vec3<u32>,
) {
  for (var i = place.x; i < arrayLength(&source); i += groups.x * ${THREADS}u) {
    copied[i] = source[i];
  }
}`;

/** Measures a device. @param share Of the work for a large card: 1, ½, ¼ …. */
export async function measurePeaks(device: GPUDevice, share: number): Promise<Peaks> {
  const groups = Math.ceil(8192 * share);
  const bytes = Math.min(2 ** 28 * share, device.limits.maxStorageBufferBindingSize);
  const buffer = () => device.createBuffer({ size: bytes, usage: GPUBufferUsage.STORAGE });
  const buffers = [buffer(), buffer()];
  const run = async (code: string, count: number, workgroups: number): Promise<Times> => {
    const module = device.createShaderModule({ code });
    const pipeline = device.createComputePipeline({ layout: 'auto', compute: { module } });
    const bindGroup = device.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: buffers
        .slice(0, count)
        .map((resource, binding) => ({ binding, resource: { buffer: resource } })),
    });
    const repeats = 8;
    const times: number[] = [];
    for (let round = 0; round < 6; round++) {
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, bindGroup);
      for (let i = 0; i < repeats; i++) pass.dispatchWorkgroups(workgroups);
      pass.end();
      const start = performance.now();
      device.queue.submit([encoder.finish()]);
      await device.queue.onSubmittedWorkDone();
      // The first one compiles.
      if (round > 0) times.push((performance.now() - start) / repeats);
    }
    return summarize(times);
  };
  const arithmetic = await run(multiplyAdds, 1, groups);
  const traffic = await run(copy, 2, Math.min(groups, 4096));
  for (const made of buffers) made.destroy();
  return {
    operationsPerMillisecond: (groups * THREADS * STEPS * SUMS * 8) / arithmetic.low,
    bytesPerMillisecond: (2 * bytes) / traffic.low,
  };
}
