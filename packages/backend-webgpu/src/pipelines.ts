import type { Bound } from './encode.js';

/** A pipeline, the layout of what it binds, and what it has bound lately, the last first. */
export interface Pipeline {
  pipeline: GPUComputePipeline;
  layout: GPUBindGroupLayout;
  bindGroups: { buffers: readonly Bound[]; group: GPUBindGroup }[];
}

/** Pipelines of each device, by their source: compiling one takes milliseconds. */
const caches = new WeakMap<GPUDevice, Map<string, Pipeline>>();

/** The pipeline of a WGSL module whose entry is `main`; its first line, a comment, names it. */
export function pipelineOf(device: GPUDevice, code: string): Pipeline {
  let cache = caches.get(device);
  if (cache === undefined) {
    cache = new Map();
    caches.set(device, cache);
  }
  let made = cache.get(code);
  if (made === undefined) {
    const label = code.slice(3, code.indexOf('\n'));
    const module = device.createShaderModule({ label, code });
    const pipeline = device.createComputePipeline({
      label,
      layout: 'auto',
      compute: { module, entryPoint: 'main' },
    });
    made = { pipeline, layout: pipeline.getBindGroupLayout(0), bindGroups: [] };
    cache.set(code, made);
  }
  return made;
}

/**
 * Remembers what `make` gives for a key: a generated source, which is long, is then made once.
 */
export function remember<Key extends object, Value>(
  keyOf: (key: Key) => string,
  make: (key: Key) => Value,
): (key: Key) => Value {
  const made = new Map<string, Value>();
  return (key) => {
    const name = keyOf(key);
    let value = made.get(name);
    if (value === undefined) {
      value = make(key);
      made.set(name, value);
    }
    return value;
  };
}

/** The value of a key, made where it is not there; of more than `most` the oldest is forgotten. */
export function remembered<Value>(
  values: Map<string, Value>,
  most: number,
  key: string,
  make: () => Value,
): Value {
  let value = values.get(key);
  if (value === undefined) {
    value = make();
    values.set(key, value);
    if (values.size > most) values.delete(values.keys().next().value as string);
  }
  return value;
}
