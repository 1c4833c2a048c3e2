import type { CudaBackend } from '../backend.js';
import { check } from '../driver/errors.js';
import type { HostMemory } from '../driver/driver.js';
import { type CublasLt, checkLt, openCublasLt } from './cublas-lt.js';
import { LtPlan, planKey, SLOT_BYTES } from './lt-plan.js';
import { type FullProduct, operationsOf } from './product.js';

const MEBIBYTE = 1024 * 1024;
/** Plans that are kept; the one unused for longest goes first. */
const MOST_PLANS = 2048;
/** Products of at least this many operations have their first few algorithms timed. */
const WORTH_TIMING = 5e8;
const TIMED_ALGORITHMS = 6;
const TIMED_RUNS = 3;

/** Products through cuBLASLt on one backend. */
export class LtProducts {
  /** May be set to false to have all products done by our own kernels. */
  enabled: boolean;
  /**
   * Whether a large product's first run times several algorithms and keeps the fastest, which waits for the device.
   * May be set to false, for the library's own choice: the same one in every process.
   */
  timing = true;

  readonly #backend: CudaBackend;
  readonly #lt: CublasLt | undefined;
  #handle = 0;
  #workspace: number | undefined;
  readonly #workspaceBytes: number;
  /** By key, in the order of last use; null where the library does not do the product. */
  readonly #plans = new Map<string, LtPlan | null>();
  readonly #slots: HostMemory[] = [];

  constructor(backend: CudaBackend) {
    this.#backend = backend;
    const hidden = (process.env['D2DMOE_NO_CUBLASLT'] ?? '') !== '' || backend.device.isEmulated;
    this.#lt = hidden ? undefined : openCublasLt();
    this.enabled = this.#lt !== undefined;
    this.#workspaceBytes = (backend.device.computeCapability[0] >= 9 ? 64 : 32) * MEBIBYTE;
  }

  /** File name of the library; undefined where none was found, or D2DMOE_NO_CUBLASLT hides it. */
  get file(): string | undefined {
    return this.#lt?.file;
  }

  /**
   * Enqueues a product with k > 0.
   *
   * @returns False where cuBLASLt is not there, not enabled or does not do it.
   */
  enqueue(product: FullProduct): boolean {
    if (!this.enabled || this.#lt === undefined || product.operands === 'int32') return false;
    const plan = this.#plan(this.#lt, product);
    if (plan === null) return false;
    checkLt(this.#run(plan, product), 'cublasLtMatmul');
    return true;
  }

  #plan(lt: CublasLt, product: FullProduct): LtPlan | null {
    const key = planKey(product);
    const known = this.#plans.get(key);
    if (known !== undefined) {
      if (this.#plans.size > MOST_PLANS / 2) {
        this.#plans.delete(key);
        this.#plans.set(key, known);
      }
      return known;
    }
    const plan = this.#make(lt, product);
    this.#plans.set(key, plan);
    if (this.#plans.size > MOST_PLANS) {
      const [oldest] = this.#plans;
      if (oldest !== undefined) {
        this.#plans.delete(oldest[0]);
        if (oldest[1] !== null) this.#slots.push(oldest[1].dispose());
      }
    }
    return plan;
  }

  #make(lt: CublasLt, product: FullProduct): LtPlan | null {
    if (this.#workspace === undefined) {
      const out = new BigUint64Array(1);
      checkLt(lt.cublasLtCreate(out), 'cublasLtCreate');
      this.#handle = Number(out[0]);
      // Kept for good: all products of a stream can share it.
      this.#workspace = this.#backend.scratch(this.#workspaceBytes).pointer;
    }
    const slot = this.#slots.pop() ?? this.#backend.driver.hostMemory(SLOT_BYTES);
    const isTimed =
      this.timing && operationsOf(product) >= WORTH_TIMING && !this.#backend.isCapturing;
    const want = isTimed ? TIMED_ALGORITHMS : 1;
    const plan = new LtPlan(lt, this.#handle, slot, product, this.#workspaceBytes, want);
    if (plan.choices === 0) {
      this.#slots.push(plan.dispose());
      return null;
    }
    if (plan.choices > 1) this.#chooseFastest(plan, product);
    return plan;
  }

  #run(plan: LtPlan, product: FullProduct): number {
    const { stream } = this.#backend;
    return plan.run(this.#handle, product, this.#workspace ?? 0, this.#workspaceBytes, stream);
  }

  /** Every run gives the product's result, so that it may be computed several times over. */
  #chooseFastest(plan: LtPlan, product: FullProduct): void {
    const { driver, stream } = this.#backend;
    const event = () => {
      const out = new BigUint64Array(1);
      check(driver, driver.cuEventCreate(out, 0), 'cuEventCreate');
      return Number(out[0]);
    };
    const start = event();
    const end = event();
    const elapsed = new Float32Array(1);
    const time = () => {
      let best = Number.POSITIVE_INFINITY;
      for (let run = 0; run <= TIMED_RUNS; run++) {
        check(driver, driver.cuEventRecord(start, stream), 'cuEventRecord');
        if (this.#run(plan, product) !== 0) return Number.POSITIVE_INFINITY;
        check(driver, driver.cuEventRecord(end, stream), 'cuEventRecord');
        check(driver, driver.cuEventSynchronize(end), 'cuEventSynchronize');
        check(driver, driver.cuEventElapsedTime(elapsed, start, end), 'cuEventElapsedTime');
        if (run > 0) best = Math.min(best, elapsed[0] ?? best);
      }
      return best;
    };
    let fastest = 0;
    let least = Number.POSITIVE_INFINITY;
    for (let choice = 0; choice < plan.choices; choice++) {
      plan.choose(choice);
      const milliseconds = time();
      // The library's first guess stays unless another is faster by more than noise.
      if (milliseconds < least * (choice === 0 ? 1 : 0.98)) {
        least = milliseconds;
        fastest = choice;
      }
    }
    plan.choose(fastest);
    driver.cuEventDestroy_v2(start);
    driver.cuEventDestroy_v2(end);
  }
}
