import * as tf from '@tensorflow/tfjs-core';
import { CudaBackend, openDriver, registerCudaKernels } from '@d2dmoe/backend-cuda';

export const name = 'cuda';

registerCudaKernels();
// The suite resets tfjs's engine between its parts, which disposes the backend: each part gets a fresh one.
tf.registerBackend(name, () => new CudaBackend(openDriver(), 0), 4);
