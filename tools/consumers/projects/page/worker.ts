import '@tensorflow/tfjs-backend-cpu';
import { useDevice } from '@d2dmoe/kernels';
import { example } from './op.js';

// Vite's workers are classic ones by default, which know no await at the top.
void useDevice('cpu').then(example).then(postMessage);
