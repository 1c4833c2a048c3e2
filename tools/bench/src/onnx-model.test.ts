import { expect, test } from 'vitest';
import { encodeOnnxModel, type OnnxGraph } from './onnx-model.js';

/** A message's fields by number, each with all its values in order. */
type Fields = Map<number, (number | Uint8Array)[]>;

/** An independent reader of protobuf's wire format: fields of varints and of bytes. */
function decode(bytes: Uint8Array): Fields {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error('The message ends inside a varint.');
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  const fields: Fields = new Map();
  while (at < bytes.length) {
    const key = varint();
    let value: number | Uint8Array = varint();
    if (key % 8 === 2) {
      const length = value;
      if (at + length > bytes.length) throw new Error('The message ends inside a field.');
      value = bytes.slice(at, at + length);
      at += length;
    } else if (key % 8 !== 0) throw new Error(`There should be no wire type ${key % 8}.`);
    const number = Math.floor(key / 8);
    fields.set(number, [...(fields.get(number) ?? []), value]);
  }
  return fields;
}

function messages(fields: Fields, number: number): Fields[] {
  return (fields.get(number) ?? []).map((value) => decode(value as Uint8Array));
}

function only(fields: Fields, number: number): Fields {
  const [first, ...rest] = messages(fields, number);
  if (first === undefined || rest.length > 0) throw new Error(`Field ${number} is not there once.`);
  return first;
}

function texts(fields: Fields, number: number): string[] {
  return (fields.get(number) ?? []).map((value) => new TextDecoder().decode(value as Uint8Array));
}

const weight = Float32Array.from({ length: 3 * 200 }, (_, i) => Math.fround(Math.sin(i)));
const graph: OnnxGraph = {
  input: { name: 'x', shape: [197, 3] },
  output: { name: 'y', shape: [197, 200] },
  nodes: [
    { op: 'Gemm', inputs: ['x', 'w', 'b'], output: 'sum' },
    { op: 'Relu', inputs: ['sum'], output: 'y' },
  ],
  constants: {
    w: { shape: [3, 200], data: weight },
    b: { shape: [200], data: new Float32Array(200).fill(-0.5) },
  },
};

test('a model states its format version and opset', () => {
  const model = decode(encodeOnnxModel(graph));
  expect(model.get(1)).toEqual([8]);
  const operators = only(model, 8);
  expect(operators.get(1)).toBeUndefined();
  expect(operators.get(2)).toEqual([17]);
});

test('nodes keep their order, ops and names', () => {
  const nodes = messages(only(decode(encodeOnnxModel(graph)), 7), 1);
  expect(nodes.map((node) => [texts(node, 4), texts(node, 1), texts(node, 2)])).toEqual([
    [['Gemm'], ['x', 'w', 'b'], ['sum']],
    [['Relu'], ['sum'], ['y']],
  ]);
});

test('constants keep their values and shapes, and are no inputs', () => {
  const encoded = only(decode(encodeOnnxModel(graph)), 7);
  const [w, b] = messages(encoded, 5) as [Fields, Fields];
  expect(texts(w, 8)).toEqual(['w']);
  expect(w.get(1)).toEqual([3, 200]);
  expect(w.get(2)).toEqual([1]);
  const raw = w.get(9)?.[0] as Uint8Array;
  expect(new Float32Array(raw.buffer)).toEqual(weight);
  expect(texts(b, 8)).toEqual(['b']);
  expect(b.get(1)).toEqual([200]);
  expect(messages(encoded, 11).flatMap((value) => texts(value, 1))).toEqual(['x']);
});

test('the input and the output have their types and shapes', () => {
  const encoded = only(decode(encodeOnnxModel(graph)), 7);
  for (const [field, { name, shape }] of [
    [11, graph.input],
    [12, graph.output],
  ] as const) {
    const value = only(encoded, field);
    expect(texts(value, 1)).toEqual([name]);
    const tensor = only(only(value, 2), 1);
    expect(tensor.get(1)).toEqual([1]);
    const lengths = messages(only(tensor, 2), 1).map((dimension) => dimension.get(1));
    expect(lengths).toEqual(shape.map((length) => [length]));
  }
});

test('a view on a part of a buffer gives that part alone', () => {
  const data = Float32Array.of(1, 2, 3, 4).subarray(1, 3);
  const model = decode(encodeOnnxModel({ ...graph, constants: { w: { shape: [2], data } } }));
  const raw = only(only(model, 7), 5).get(9)?.[0] as Uint8Array;
  expect([...new Float32Array(raw.buffer)]).toEqual([2, 3]);
});
