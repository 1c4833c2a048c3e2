import '@tensorflow/tfjs-backend-cpu';

export const name = 'cpu';
