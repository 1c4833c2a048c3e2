import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { halfTypeOf } from '../tensor-data.js';
import { type Activation, BYTES, type FullProduct } from './product.js';

const activateKernel = (type: string) =>
  kernel('products-activate', `products_activate_${type}`, 'p l i f');
const kernels = {
  float32: activateKernel('f32'),
  bf16: activateKernel('bf16'),
  fp16: activateKernel('f16'),
};

/** As products-activate.cu numbers them. */
const CODES: Record<Activation, number> = {
  linear: 0,
  relu: 1,
  relu6: 2,
  elu: 3,
  sigmoid: 4,
  leakyrelu: 5,
};

/** Enqueues a product's activation, in place, where it has one. */
export function activate(backend: CudaBackend, product: FullProduct): void {
  const { out, batch, m, n, strideOut, activation, alpha, result } = product;
  if (activation === 'linear') return;
  const isDense = batch === 1 || strideOut === m * n;
  const count = isDense ? batch * m * n : m * n;
  const vectors = Math.ceil((count * BYTES[result]) / 16);
  for (let item = 0; item < (isDense ? 1 : batch); item++) {
    const pointer = out + item * strideOut * BYTES[result];
    const args = [pointer, count, CODES[activation], alpha];
    backend.launch(
      kernels[halfTypeOf(result) ?? 'float32'],
      backend.blocks(vectors, 256),
      256,
      args,
    );
  }
}
