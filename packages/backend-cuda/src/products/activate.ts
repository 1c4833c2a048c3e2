import type { CudaBackend } from '../backend.js';
import { kernel } from '../launch.js';
import { type Activation, BYTES, type FullProduct } from './product.js';

const float32Kernel = kernel('products-activate', 'products_activate_f32', 'p l i f');
const bf16Kernel = kernel('products-activate', 'products_activate_bf16', 'p l i f');

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
    backend.launch(
      result === 'bf16' ? bf16Kernel : float32Kernel,
      backend.blocks(vectors, 256),
      256,
      [pointer, count, CODES[activation], alpha],
    );
  }
}
