import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { feedForwardGraph } from '../feed-forward-graph.js';
import { encodeOnnxModel, type OnnxGraph } from '../onnx-model.js';
import { feedForwardValues, productOperands, type ProductWorkload } from '../workload.js';
import type { Peer, Prepared } from './peer.js';

/** The part of onnxruntime-common's API that is used here. */
interface Onnxruntime {
  env: { versions: Record<string, string | undefined>; wasm: { numThreads?: number } };
  Tensor: new (type: 'float32', data: Float32Array, shape: readonly number[]) => object;
  InferenceSession: {
    create: (
      model: Uint8Array,
      options: object,
    ) => Promise<{
      run: (feeds: Record<string, object>) => Promise<Record<string, { data: Float32Array }>>;
    }>;
  };
}

/**
 * onnxruntime's native build, or its wasm build. They are not among the workspace's dependencies, for their size: see
 * the README.
 */
export async function onnxruntime(
  name: 'onnxruntime-node' | 'onnxruntime-web',
  threads: number,
): Promise<Peer> {
  const { resolve } = createRequire(new URL('../../peers/package.json', import.meta.url));
  const module = (await import(pathToFileURL(resolve(name)).href)) as Onnxruntime & {
    default?: Onnxruntime;
  };
  const ort = module.default ?? module;
  if (name === 'onnxruntime-web') ort.env.wasm.numThreads = threads;
  const version = ort.env.versions[name === 'onnxruntime-web' ? 'web' : 'node'] ?? 'unknown';

  const prepareGraph = async (graph: OnnxGraph, input: Float32Array): Promise<Prepared> => {
    const session = await ort.InferenceSession.create(encodeOnnxModel(graph), {
      executionProviders: [name === 'onnxruntime-web' ? 'wasm' : 'cpu'],
      graphOptimizationLevel: 'all',
      intraOpNumThreads: threads,
      interOpNumThreads: 1,
    });
    const feeds = { [graph.input.name]: new ort.Tensor('float32', input, graph.input.shape) };
    const run = async () => (await session.run(feeds))[graph.output.name]?.data as Float32Array;
    return { run, results: async () => ({ output: await run() }) };
  };
  return {
    about: { version, threads },
    prepare: async (workload) => {
      if (workload.kind === 'product' && !workload.transposeA && !workload.transposeB) {
        return prepareGraph(productGraph(workload), productOperands(workload).a);
      }
      if (workload.kind === 'feedForward') {
        const values = feedForwardValues(workload);
        return prepareGraph(feedForwardGraph(workload, values), values.x);
      }
      throw new Error(`${name} has no graph for ${workload.kind} here.`);
    },
  };
}

function productGraph(workload: ProductWorkload): OnnxGraph {
  const { a, b } = workload;
  return {
    input: { name: 'a', shape: a },
    output: { name: 'c', shape: [...a.slice(0, -1), ...b.slice(-1)] },
    nodes: [{ op: 'MatMul', inputs: ['a', 'b'], output: 'c' }],
    constants: { b: { shape: b, data: productOperands(workload).b } },
  };
}
