import { fileURLToPath } from 'node:url';
import { openSafetensors } from '@d2dmoe/safetensors';
import { fileSource } from '@d2dmoe/safetensors/node';
import type { Activation } from '../src/types.js';
import type { ReferenceExperts } from '../src/reference.js';

const file = fileURLToPath(new URL('../../../tools/fixtures/method.safetensors', import.meta.url));

/** The tensors that PyTorch computed in float64, by name, row-major. */
export async function recordedTensors(): Promise<(name: string) => Float64Array> {
  const reader = await openSafetensors(await fileSource(file));
  const tensors = new Map<string, Float64Array>();
  for (const name of reader.tensors.keys()) {
    tensors.set(name, new Float64Array(new Uint8Array(await reader.read(name)).buffer));
  }
  await reader.close();
  return (name) => {
    const tensor = tensors.get(name);
    if (!tensor) throw new Error(`no recorded tensor ${name}`);
    return tensor;
  };
}

export const recordedActivations: Activation[] = ['relu', 'gelu', 'gelu_tanh', 'silu'];
export const recordedThresholds = ['0.0', '0.3', '0.6', '0.9', '1.0'];

/** The recorded FFN: 10 → 24 → 10, six experts of four neurons. */
export function recordedExperts(
  recorded: (name: string) => Float64Array,
  form: 'plain' | 'gated',
  activation: Activation,
): ReferenceExperts {
  const down = transpose(recorded('op.w2'), 10, 24);
  const shape = { dIn: 10, dOut: 10, experts: 6, expertSize: 4, activation };
  const up = recorded('op.w1');
  return form === 'gated'
    ? { ...shape, up, gate: recorded('op.w_gate'), down }
    : { ...shape, up, upBias: recorded('op.b1'), down, downBias: recorded('op.b2') };
}

function transpose(matrix: Float64Array, rows: number, columns: number): Float64Array {
  const transposed = new Float64Array(rows * columns);
  for (const [i, value] of matrix.entries()) {
    transposed[(i % columns) * rows + Math.floor(i / columns)] = value;
  }
  return transposed;
}
