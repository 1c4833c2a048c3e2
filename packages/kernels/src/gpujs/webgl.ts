import { D2DMoEError } from '@d2dmoe/core';
import type { MathBackendWebGL } from '@tensorflow/tfjs-backend-webgl';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D, TensorInfo } from '@tensorflow/tfjs-core';
import { DynamicKExperts, type DynamicKExpertsAttrs } from '../dynamic-k-experts.js';
import { PackExperts, type PackExpertsAttrs } from '../pack-experts.js';
import type { FeedForwardWeights } from '../types.js';
import { fillUp, packForGpuJs } from './pack.js';
import { replaceKernel } from './replace-kernel.js';
import { textureHiddenSource, textureOutputSource } from './texture-sources.js';
import { GpuJsTextures } from './textures.js';

type Weights = Omit<FeedForwardWeights, 'activation'>;
type Inputs = Record<'x' | 'selection', Tensor2D> & Record<string, TensorInfo>;

/**
 * Has gpu.js run the expert op on tfjs's webgl backend, which must be the current one: for pages whose browser has
 * WebGL 2 but no WebGPU. gpu.js draws in tfjs's own WebGL context, from textures to textures: its promise is about
 * reading back, and nothing is read back, so the op's result is an ordinary tensor that the next op can take at once.
 * Neurons of experts that are not selected are skipped in the shader.
 *
 * Importing gpu.js puts its class in the place of the global `GPU`, WebGPU's interface of that name.
 *
 * @throws D2DMoEError `BACKEND_MISMATCH` where the current backend is not `webgl`; `GPUJS_UNAVAILABLE` where that has no
 *   WebGL 2 with float32 textures
 */
export function registerGpuJs(): void {
  if (tf.getBackend() !== 'webgl') {
    throw new D2DMoEError(
      'BACKEND_MISMATCH',
      `gpu.js runs the op on tfjs's webgl backend, but the current one is ${tf.getBackend()}: call tf.setBackend('webgl') first.`,
    );
  }
  const env = tf.env();
  if (env.getNumber('WEBGL_VERSION') !== 2 || !env.getBool('WEBGL_RENDER_FLOAT32_ENABLED')) {
    throw new D2DMoEError(
      'GPUJS_UNAVAILABLE',
      'The op through gpu.js needs WebGL 2 with float32 textures, which this browser does not have: leave the backend as it is, or use wasm.',
    );
  }
  const textures = new GpuJsTextures(tf.backend() as MathBackendWebGL);

  replaceKernel(PackExperts, 'webgl', pack);
  replaceKernel(DynamicKExperts, 'webgl', run);

  function pack({ inputs, attrs }: { inputs: Weights; attrs: PackExpertsAttrs }): Tensor[] {
    return tf.tidy(() => {
      const weights = packForGpuJs(inputs, attrs, 4);
      const gate = weights.gate && weights.gateBias ? [weights.gate, weights.gateBias] : [];
      const list = [weights.up, weights.upBias, weights.down, weights.downBias, ...gate];
      return list.map((tensor) => textures.quads(tensor));
    });
  }

  function run({ inputs, attrs }: { inputs: Inputs; attrs: DynamicKExpertsAttrs }): Tensor {
    const { x, selection, packed0, packed1, packed2, packed3, packed4, packed5 } = inputs;
    const { activation, expertSize, dOut } = attrs;
    const [rows, dIn] = x.shape;
    const experts = selection.shape[1];
    if (rows === 0) return tf.zeros([0, dOut]);
    const inputQuads = Math.ceil(dIn / 4);
    const neuronQuads = Math.ceil(expertSize / 4);
    const outputQuads = Math.ceil(dOut / 4);
    const quads = (tensor: TensorInfo | undefined, shape: number[]) =>
      textures.texture(tensor as TensorInfo, 'ArrayTexture(4)', shape);
    const projection = [experts, 4 * inputQuads, neuronQuads];
    const bias = [experts, neuronQuads];
    return tf.tidy(() => {
      const input = quads(textures.quads(fillUp(x, [1], 4)), [rows, inputQuads]);
      const singles = textures.singles(selection);
      const selected = textures.texture(singles, 'ArrayTexture(1)', [rows, experts]);
      const hidden = textures.run(
        {
          source: textureHiddenSource({ activation, gated: packed4 !== undefined }),
          constants: { inputQuads },
          longestLoop: inputQuads,
        },
        [
          input,
          selected,
          quads(packed0, projection),
          quads(packed1, bias),
          ...(packed4 ? [quads(packed4, projection), quads(packed5, bias)] : []),
        ],
        [rows, experts, neuronQuads],
      );
      const output = textures.run(
        {
          source: textureOutputSource,
          constants: { experts, neuronQuads },
          longestLoop: Math.max(experts, neuronQuads),
        },
        [
          hidden.texture,
          selected,
          quads(packed2, [experts, 4 * neuronQuads, outputQuads]),
          quads(packed3, [outputQuads]),
        ],
        [rows, outputQuads],
      );
      const filled = textures.tensor(output, [rows, 4 * outputQuads]);
      return tf.slice(filled, [0, 0], [rows, dOut]);
    });
  }
}
