import { D2DMoEError } from '@d2dmoe/core';
import type { GPGPUProgram, MathBackendWebGL } from '@tensorflow/tfjs-backend-webgl';
import * as tf from '@tensorflow/tfjs-core';
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import { GPU, Texture } from 'gpu.js';
import type { IKernelRunShortcut, Kernel } from 'gpu.js';

/** A gpu.js kernel that gives four values a texel. */
export interface TextureKernel {
  source: string;
  /** Integers. */
  constants: Record<string, number>;
  /** The most iterations of any one loop. */
  longestLoop: number;
}

/** What gpu.js has of a kernel that its typings do not tell. */
interface BuiltKernel {
  built: boolean;
  maxTexSize: [number, number];
  texSize: [number, number];
  texture?: Texture & { texture: WebGLTexture };
}

/** A kernel that was made, and the shape of its last result. */
interface Entry {
  kernel: IKernelRunShortcut;
  vertexArray: WebGLVertexArrayObject;
  shape: number[];
}

/** How gpu.js calls textures of one value and of four values a texel; its typings know the second only. */
type TextureType = 'ArrayTexture(1)' | 'ArrayTexture(4)';

/**
 * Runs gpu.js kernels in the WebGL context of tfjs's backend, on the textures of its tensors: both lay values out in
 * row-major order, one or four a texel.
 */
export class GpuJsTextures {
  readonly #backend: MathBackendWebGL;
  readonly #gl: WebGL2RenderingContext;
  readonly #gpu: GPU;
  readonly #kernels = new Map<string, Entry>();

  constructor(backend: MathBackendWebGL) {
    this.#backend = backend;
    this.#gl = backend.gpgpu.gl as WebGL2RenderingContext;
    // gpu.js sizes the canvas like its largest texture. Nothing is shown, so it may size this one.
    const canvas = { width: 1, height: 1 };
    this.#gpu = new GPU({ mode: 'webgl2', context: this.#gl, canvas });
  }

  /** The values of a tensor one a texel, float32, in a tensor that {@link texture} takes. */
  singles(tensor: TensorInfo): Tensor {
    const copy: GPGPUProgram = {
      variableNames: ['A'],
      outputShape: tensor.shape,
      userCode: 'void main() { setOutput(getAAtOutCoords()); }',
    };
    const info = this.#backend.runWebGLProgram(copy, [tensor], 'float32', undefined, true);
    return tf.engine().makeTensorFromTensorInfo(info);
  }

  /**
   * The values of a float32 tensor four a texel, in a tensor that {@link texture} takes, and nothing else may: tfjs does
   * not know that it is not its own layout.
   */
  quads(tensor: TensorInfo): Tensor {
    this.#backend.uploadToGPU(tensor.dataId);
    return this.#backend.readToGPU(tensor.dataId).tensorRef;
  }

  /**
   * What gpu.js reads as an array.
   *
   * @param tensor from {@link singles} or {@link quads}
   * @param shape the array's, one to three dimensions; of quads, the last is a quarter of the tensor's
   */
  texture(tensor: TensorInfo, type: TextureType, shape: number[]): Texture {
    const backend = this.#backend;
    const texture = backend.getTexture(tensor.dataId);
    const texShape = backend.texData.get(tensor.dataId).texture?.texShape;
    const [height, width] = texShape as [number, number];
    const output = shape.toReversed();
    return new Texture({
      texture,
      size: [width, height],
      dimensions: [output[0] ?? 1, output[1] ?? 1, output[2] ?? 1],
      output,
      context: this.#gl,
      kernel: {} as Kernel,
      type: type as 'ArrayTexture(4)',
    });
  }

  /**
   * Runs a kernel.
   *
   * @param shape of the result, two or three dimensions
   * @returns the result, until the kernel runs again
   * @throws D2DMoEError `GPUJS_FAILED` where gpu.js cannot build the kernel
   */
  run({ source, constants, longestLoop }: TextureKernel, inputs: Texture[], shape: number[]) {
    const gl = this.#gl;
    const entry = this.#kernel(source, constants, longestLoop);
    const { kernel, vertexArray } = entry;
    const built = () => kernel.kernel as unknown as BuiltKernel;
    // gpu.js sets these two when it builds a kernel and counts on them when it runs it; so does tfjs with its own.
    gl.bindVertexArray(vertexArray);
    if (built().built) gl.viewport(0, 0, ...built().maxTexSize);
    if (entry.shape.join() !== shape.join()) {
      // This allocates another texture.
      kernel.setOutput(shape.toReversed());
      entry.shape = shape;
    }
    // The commands are given when the call returns. The promise is about reading back, which the pipeline leaves out.
    void kernel(...inputs);
    gl.bindVertexArray(null);
    const { texture, texSize } = built();
    if (!texture) {
      throw new D2DMoEError(
        'GPUJS_FAILED',
        'gpu.js could not build the expert op for this browser; the rejected promise that follows says why.',
      );
    }
    return { texture, texSize };
  }

  /** A tensor of the first values of a result; tfjs copies it into a texture of its own. */
  tensor({ texture, texSize }: ReturnType<GpuJsTextures['run']>, shape: number[]): Tensor {
    const [width, height] = texSize;
    return tf.tensor({ texture: texture.texture, width, height, channels: 'RGBA' }, shape);
  }

  #kernel(source: string, constants: Record<string, number>, loopMaxIterations: number): Entry {
    const key = JSON.stringify([source, constants]);
    const made = this.#kernels.get(key);
    if (made) return made;
    const types = Object.keys(constants).map((name): [string, 'Integer'] => [name, 'Integer']);
    const kernel = this.#gpu.createKernel(source, {
      constants,
      constantTypes: Object.fromEntries(types),
      dynamicArguments: true,
      dynamicOutput: true,
      precision: 'single',
      tactic: 'precision',
      pipeline: true,
      asyncMode: true,
    });
    kernel.setLoopMaxIterations(loopMaxIterations);
    const entry: Entry = { kernel, vertexArray: this.#gl.createVertexArray(), shape: [] };
    this.#kernels.set(key, entry);
    return entry;
  }
}
