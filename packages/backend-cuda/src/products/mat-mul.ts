import type { CudaBackend } from '../backend.js';
import { activate } from './activate.js';
import { fusesActivation } from './lt-plan.js';
import { LtProducts } from './lt-products.js';
import { ownProduct } from './own-product.js';
import { complete, type Product } from './product.js';

const libraries = new WeakMap<CudaBackend, LtProducts>();

/** cuBLASLt for this backend: whether it was found, and what it may do. */
export function ltProducts(backend: CudaBackend): LtProducts {
  let products = libraries.get(backend);
  if (products === undefined) {
    products = new LtProducts(backend);
    libraries.set(backend, products);
  }
  return products;
}

/**
 * Enqueues a batch of matrix products: by cuBLASLt where it is there and takes them, else by our own kernels.
 *
 * @param product Addresses and sizes; by default of float32 matrices that lie one behind the other.
 */
export function matMul(backend: CudaBackend, product: Product): void {
  const full = complete(backend.precision, product);
  if (full.batch === 0 || full.m === 0 || full.n === 0) return;
  const isByLibrary = full.k > 0 && ltProducts(backend).enqueue(full);
  if (isByLibrary && fusesActivation(full)) return;
  if (!isByLibrary) ownProduct(backend, full);
  activate(backend, full);
}
