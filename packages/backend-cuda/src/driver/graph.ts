import type { Allocator, GraphMemory } from './allocator.js';
import type { Context } from './context.js';
import { check } from './errors.js';

const CAPTURE_RELAXED = 2;

/**
 * Work that was recorded once and is enqueued again as a whole, at the host's cost of one call. It reads and writes the
 * same addresses at every launch: its inputs are the tensors that were there when it was recorded, its outputs those
 * that the recorded function made. Memory that it uses is kept for it until dispose().
 */
export class CudaGraph {
  readonly #context: Context;
  readonly #allocator: Allocator;
  readonly #memory: GraphMemory;
  readonly #exec: number;
  #isDisposed = false;

  /** Called by `CudaBackend.capture`. */
  constructor(context: Context, allocator: Allocator, record: () => void) {
    this.#context = context;
    this.#allocator = allocator;
    const { driver, stream } = context;
    const out = new BigUint64Array(1);
    check(driver, driver.cuStreamBeginCapture_v2(stream, CAPTURE_RELAXED), 'cuStreamBeginCapture');
    this.#memory = allocator.beginCapture();
    let graph = 0;
    try {
      record();
      check(driver, driver.cuStreamEndCapture(stream, out), 'cuStreamEndCapture');
      graph = Number(out[0]);
      check(driver, driver.cuGraphInstantiateWithFlags(out, graph, 0), 'cuGraphInstantiate');
      this.#exec = Number(out[0]);
    } catch (error) {
      // Ends the capture if record() threw; has no effect but an error result if it had ended already.
      if (graph === 0 && driver.cuStreamEndCapture(stream, out) === 0) graph = Number(out[0]);
      allocator.endCapture();
      allocator.releaseGraph(this.#memory);
      throw error;
    } finally {
      if (graph !== 0) driver.cuGraphDestroy(graph);
    }
    allocator.endCapture();
  }

  /** Enqueues the recorded work. */
  launch(): void {
    const { driver, stream } = this.#context;
    check(driver, driver.cuGraphLaunch(this.#exec, stream), 'cuGraphLaunch');
  }

  /** Gives the graph's memory back; tensors that still lie in it stay valid. */
  dispose(): void {
    if (this.#isDisposed) return;
    this.#isDisposed = true;
    const { driver, stream } = this.#context;
    driver.cuStreamSynchronize(stream);
    driver.cuGraphExecDestroy(this.#exec);
    this.#allocator.releaseGraph(this.#memory);
  }
}
