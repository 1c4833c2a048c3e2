import { GPU, Input } from 'gpu.js';
import type { IPipelineRunShortcut } from 'gpu.js';
import type { Activation } from '../types.js';
import type { GpuJsMode, ThreadExperts, ThreadRows } from './protocol.js';
import {
  hiddenSource,
  hiddenWeights,
  outputSource,
  outputWeights,
  type HiddenVariant,
} from './sources.js';

/**
 * The rows that one call of gpu.js takes. It compiles a module for each size and copies the constants into it, so that
 * there are two sizes: one row, and a block, filled up with rows that select nothing and so cost next to nothing.
 */
const blockRows = 32;

/** One FFN's experts in gpu.js, for tokens in blocks. Runs wherever gpu.js does, and asynchronously. */
export class GpuJsExperts {
  readonly #gpu: GPU;
  readonly #experts: ThreadExperts;
  readonly #pipelines = new Map<string, IPipelineRunShortcut>();

  /** @param gpu from {@link createGpu} */
  constructor(gpu: GPU, experts: ThreadExperts) {
    this.#gpu = gpu;
    this.#experts = experts;
  }

  /** Writes `output`. Resolves to how gpu.js ran, such as `webasm, fused-threaded`. */
  async run({ activation, rows, x, selection, output }: ThreadRows): Promise<string> {
    const { dIn, dOut, experts } = this.#experts;
    const size = rows === 1 ? 1 : blockRows;
    const pipeline = this.#pipeline(size, activation);
    for (let start = 0; start < rows; start += size) {
      const end = Math.min(start + size, rows);
      const block = padded(x.subarray(start * dIn, end * dIn), size * dIn);
      const selected = padded(selection.subarray(start * experts, end * experts), size * experts);
      // oxlint-disable-next-line no-await-in-loop -- calls of one pipeline run one after the other anyway
      const result = (await pipeline(
        sized(block, [dIn, size]),
        sized(selected, [experts, size]),
      )) as unknown as Float32Array[];
      for (let row = start; row < end; row++) {
        output.set(result[row - start] as Float32Array, row * dOut);
      }
    }
    return `${pipeline.backend}, ${pipeline.executorKind}`;
  }

  /** Frees what gpu.js holds. */
  async dispose(): Promise<void> {
    await Promise.all(Array.from(this.#pipelines.values(), (pipeline) => pipeline.destroy()));
    this.#pipelines.clear();
  }

  #pipeline(rows: number, activation: Activation): IPipelineRunShortcut {
    const key = `${activation} ${rows}`;
    const made = this.#pipelines.get(key);
    if (made) return made;
    const { dIn, dOut, experts, expertSize, gated, weights } = this.#experts;
    const variant: HiddenVariant = { activation, gated };
    const shapes: Record<string, number[]> = {
      up: [expertSize, dIn, experts],
      upBias: [expertSize, experts],
      gate: [expertSize, dIn, experts],
      gateBias: [expertSize, experts],
      down: [dOut, expertSize, experts],
      downBias: [dOut],
    };
    const kernel = (
      source: string,
      names: string[],
      sizes: Record<string, number>,
      output: number[],
    ) => {
      const arrays = names.map((name): [string, unknown] => [
        name,
        sized(weights[name] as Float32Array, shapes[name] as number[]),
      ]);
      const types = [
        ...Object.keys(sizes).map((name) => [name, 'Integer']),
        ...names.map((name) => [name, 'Input']),
      ];
      return this.#gpu.createKernel(source, {
        output,
        constants: { ...sizes, ...Object.fromEntries(arrays) },
        constantTypes: Object.fromEntries(types) as Record<string, 'Integer'>,
        precision: 'single',
        asyncMode: true,
      });
    };
    const hidden = kernel(hiddenSource(variant), hiddenWeights(variant), { dIn }, [
      expertSize,
      experts,
      rows,
    ]);
    const output = kernel(outputSource, outputWeights, { experts, expertSize }, [dOut, rows]);
    const pipeline = this.#gpu.createPipeline((x, selection) =>
      output(hidden(x, selection), selection),
    );
    this.#pipelines.set(key, pipeline);
    return pipeline;
  }
}

/** gpu.js under its asynchronous contract. */
export function createGpu(mode: GpuJsMode): GPU {
  return new GPU({ mode });
}

/** gpu.js's sizes go from the last dimension to the first. */
function sized(values: Float32Array, size: number[]) {
  return new Input(values as unknown as number[], size as [number]);
}

function padded(values: Float32Array, length: number): Float32Array {
  if (values.length === length) return values;
  const block = new Float32Array(length);
  block.set(values);
  return block;
}
