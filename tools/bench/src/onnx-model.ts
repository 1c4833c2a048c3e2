/**
 * The little of the ONNX format (onnx.proto, opset 17) that a graph of float32 matrices needs, in protobuf's wire
 * format: a message is a run of fields, each a key (field number · 8 + wire type) and a varint, or a length and bytes.
 */

const varintField = 0;
const bytesField = 2;
const float32 = 1;
const opset = 17;
/** The file format's version that came with opset 17. */
const irVersion = 8;

/** One op of a graph; its values are named by strings. */
export interface OnnxNode {
  op: string;
  inputs: readonly string[];
  /** The name of its one output. */
  output: string;
}

/** A float32 array with its shape. */
export interface OnnxTensor {
  shape: readonly number[];
  /** Row-major. */
  data: Float32Array;
}

/** A graph from one input to one output, all float32. */
export interface OnnxGraph {
  input: { name: string; shape: readonly number[] };
  output: { name: string; shape: readonly number[] };
  /** In the order of execution. */
  nodes: readonly OnnxNode[];
  /** Weights by name: initializers that are no inputs, so a runtime may take them for constants. */
  constants: Readonly<Record<string, OnnxTensor>>;
}

/** A message in pieces, so that weights are copied once only. */
type Message = readonly Uint8Array[];

/**
 * The bytes of an ONNX file (a ModelProto).
 *
 * @param graph Below 2 GiB in all, protobuf's limit.
 */
export function encodeOnnxModel(graph: OnnxGraph): Uint8Array {
  const model = [
    ...integer(1, irVersion),
    ...text(2, 'd2dmoe'),
    ...message(7, encodeGraph(graph)),
    ...message(8, integer(2, opset)),
  ];
  const bytes = new Uint8Array(lengthOf(model));
  let at = 0;
  for (const piece of model) {
    bytes.set(piece, at);
    at += piece.length;
  }
  return bytes;
}

function encodeGraph({ input, output, nodes, constants }: OnnxGraph): Message {
  return [
    ...nodes.flatMap((node) => message(1, encodeNode(node))),
    ...text(2, 'graph'),
    ...Object.entries(constants).flatMap(([name, tensor]) =>
      message(5, encodeTensor(name, tensor)),
    ),
    ...message(11, encodeValue(input)),
    ...message(12, encodeValue(output)),
  ];
}

function encodeNode({ op, inputs, output }: OnnxNode): Message {
  return [...inputs.flatMap((name) => text(1, name)), ...text(2, output), ...text(4, op)];
}

function encodeTensor(name: string, { shape, data }: OnnxTensor): Message {
  return [
    ...shape.flatMap((length) => integer(1, length)),
    ...integer(2, float32),
    ...text(8, name),
    // raw_data is little-endian, as is every machine that Node runs on but IBM's.
    ...message(9, [new Uint8Array(data.buffer, data.byteOffset, data.byteLength)]),
  ];
}

function encodeValue({ name, shape }: { name: string; shape: readonly number[] }): Message {
  const dimensions = shape.flatMap((length) => message(1, integer(1, length)));
  const tensorType = [...integer(1, float32), ...message(2, dimensions)];
  return [...text(1, name), ...message(2, message(1, tensorType))];
}

function integer(field: number, value: number): Message {
  return [Uint8Array.of(...varint(field * 8 + varintField), ...varint(value))];
}

function text(field: number, value: string): Message {
  return message(field, [new TextEncoder().encode(value)]);
}

function message(field: number, content: Message): Message {
  const header = [...varint(field * 8 + bytesField), ...varint(lengthOf(content))];
  return [Uint8Array.from(header), ...content];
}

/** 7 bits a byte, the lowest first; the high bit says that more follow. */
function varint(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  while (rest >= 128) {
    bytes.push((rest % 128) + 128);
    rest = Math.floor(rest / 128);
  }
  return [...bytes, rest];
}

function lengthOf(pieces: Message): number {
  return pieces.reduce((sum, { length }) => sum + length, 0);
}
