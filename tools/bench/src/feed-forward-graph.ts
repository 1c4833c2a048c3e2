import type { OnnxGraph, OnnxNode, OnnxTensor } from './onnx-model.js';
import type { FeedForwardShape, FeedForwardValues } from './workload.js';

/** The dense FFN as exporters write it, with weights as [rows of the input, columns of the output]. */
export function feedForwardGraph(
  { rows, dModel, hidden }: FeedForwardShape,
  { up, upBias, gate, down, downBias }: FeedForwardValues,
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
