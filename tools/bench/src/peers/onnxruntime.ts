import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { encodeOnnxModel, type OnnxGraph, type OnnxNode, type OnnxTensor } from '../onnx-model.js';
import {
  type FeedForwardShape,
  feedForwardValues,
  productOperands,
  type ProductWorkload,
} from '../workload.js';
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

/** The dense FFN as exporters write it, with weights as [rows of the input, columns of the output]. */
function feedForwardGraph(
  { rows, dModel, hidden }: FeedForwardShape,
  { up, upBias, gate, down, downBias }: ReturnType<typeof feedForwardValues>,
): OnnxGraph {
  const upward = (values: Float32Array): OnnxTensor => ({
    shape: [dModel, hidden],
    data: transposed(values, hidden, dModel),
  });
  const nodes: OnnxNode[] =
    gate === undefined
      ? [
          { op: 'Gemm', inputs: ['x', 'up', 'upBias'], output: 'projected' },
          { op: 'Relu', inputs: ['projected'], output: 'hidden' },
          { op: 'Gemm', inputs: ['hidden', 'down', 'downBias'], output: 'y' },
        ]
      : [
          { op: 'MatMul', inputs: ['x', 'gate'], output: 'gated' },
          { op: 'Relu', inputs: ['gated'], output: 'activated' },
          { op: 'MatMul', inputs: ['x', 'up'], output: 'projected' },
          { op: 'Mul', inputs: ['activated', 'projected'], output: 'hidden' },
          { op: 'MatMul', inputs: ['hidden', 'down'], output: 'y' },
        ];
  return {
    input: { name: 'x', shape: [rows, dModel] },
    output: { name: 'y', shape: [rows, dModel] },
    nodes,
    constants: {
      up: upward(up),
      down: { shape: [hidden, dModel], data: down },
      ...(gate && { gate: upward(gate) }),
      ...(upBias && { upBias: { shape: [hidden], data: upBias } }),
      ...(downBias && { downBias: { shape: [dModel], data: downBias } }),
    },
  };
}

function transposed(values: Float32Array, rows: number, columns: number): Float32Array {
  const output = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      output[column * rows + row] = values[row * columns + column] as number;
    }
  }
  return output;
}
