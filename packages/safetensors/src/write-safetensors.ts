import { encodeData, layOut, type TensorData, type TensorDescription } from './encode.js';
import { writeAtomically } from './write-atomic.js';

/** A tensor that is to be written, with its data or a function that makes them when their turn comes. */
export interface LazyTensorEntry extends TensorDescription {
  /** As {@link TensorEntry} has them; a function is called once, when the tensor is written. */
  data: TensorData | (() => TensorData | Promise<TensorData>);
}

/** Settings of {@link writeSafetensors}. */
export interface WriteSafetensorsOptions {
  /** Strings of the file's own, its `__metadata__`. */
  metadata?: Readonly<Record<string, string>>;
}

/**
 * Writes a safetensors file atomically, one tensor at a time: with functions for data, no more than one tensor is in
 * memory. The functions are called in the order of the file, widest elements first, then by name.
 *
 * @throws D2DMoEError `DISK_FULL` or `WRITE_FAILED`, naming the file; `SAFETENSORS_SHAPE_MISMATCH` and
 *   `SAFETENSORS_DTYPE_MISMATCH` for data that do not fit their entry; what an entry's function throws, as it is. An old
 *   file of that name is then still there.
 */
export async function writeSafetensors(
  path: string,
  entries: Iterable<LazyTensorEntry>,
  options: WriteSafetensorsOptions = {},
): Promise<void> {
  const layout = layOut(path, entries, options.metadata);
  await writeAtomically(path, async (append) => {
    await append(layout.head);
    for (const entry of layout.entries) {
      const data = typeof entry.data === 'function' ? await entry.data() : entry.data;
      await append(encodeData(path, entry, data));
    }
  });
}
