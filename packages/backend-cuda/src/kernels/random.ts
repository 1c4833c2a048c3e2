import type { KernelConfig, TensorInfo } from '@tensorflow/tfjs-core';
import { kernel } from '../launch.js';
import { requireReal, withType } from './cast.js';
import { cudaKernel } from './config.js';
import { withScratch } from './run.js';
import { softmax } from './reductions.js';
import { cumulativeRows } from './scan.js';

const multinomial = kernel('sort', 'multinomial', 'p p l i i u u');

/** The two halves of a seed's 64 bits. */
function seedWords(seed: number): readonly [number, number] {
  const [low = 0, high = 0] = new Uint32Array(new Float64Array([seed]).buffer);
  return [low, high];
}

/**
 * Multinomial: draws from the distributions in the rows of logits, or of probabilities where `normalized`. The same seed
 * gives the same draws; they are not those of tfjs's cpu backend, which uses another generator.
 */
export const randomKernels: KernelConfig[] = [
  cudaKernel<{ logits: TensorInfo }, { numSamples: number; seed: number; normalized: boolean }>(
    'Multinomial',
    ({ inputs: { logits }, attrs: { numSamples, seed, normalized }, backend }) => {
      requireReal('Multinomial', logits);
      const [rows = 0, events = 0] = logits.shape;
      const out = backend.output([rows, numSamples], 'int32');
      const total = rows * numSamples;
      const draw = (probabilities: TensorInfo): void => {
        const from = backend.pointer(probabilities);
        withScratch(backend, rows * events * 4, (cumulative) => {
          cumulativeRows(backend, rows, events, from, cumulative);
          const args = [cumulative, out.pointer, total, events, numSamples, ...seedWords(seed)];
          backend.launch(multinomial, backend.blocks(total), 256, args);
        });
      };
      if (normalized) {
        withType(backend, logits, 'float32', draw);
      } else {
        const probabilities = softmax(backend, logits, false);
        draw(probabilities);
        backend.disposeIntermediateTensorInfo(probabilities);
      }
      return out;
    },
  ),
];
