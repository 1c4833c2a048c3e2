import { D2DMoEError } from '@d2dmoe/core';
import type { ByteSource } from './byte-source.js';
import type { TensorInfo } from './header.js';
import { quote } from './quote.js';
import { openSafetensors, type SafetensorsFile, type TensorReader } from './reader.js';
import { isJsonObject } from './strict-json.js';

/** A checkpoint whose tensors are spread over several safetensors files. */
export class ShardedSafetensors implements TensorReader {
  /** The shards' metadata in one; where they disagree, the later shard's. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Those of all shards by name; `file` says in which one each is. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly #name: string;
  readonly #shards: SafetensorsFile[];
  readonly #shardOf: ReadonlyMap<string, SafetensorsFile>;

  /**
   * Use {@link openSharded}, which opens and checks the shards.
   *
   * @param name What messages call the checkpoint.
   * @param shardOf The shard of each tensor; each shard holds the tensor.
   */
  constructor(
    name: string,
    shards: SafetensorsFile[],
    shardOf: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.#name = name;
    this.#shards = shards;
    this.#shardOf = shardOf;
    this.metadata = Object.assign({}, ...shards.map((shard) => shard.metadata)) as Record<
      string,
      string
    >;
    this.tensors = new Map(
      Array.from(shardOf, ([tensor, shard]) => [tensor, shard.tensors.get(tensor) as TensorInfo]),
    );
  }

  /** The tensor's bytes, see {@link TensorReader.read}. */
  async read(name: string): Promise<Uint8Array> {
    return this.#shard(name).read(name);
  }

  /** Its values in float32, see {@link TensorReader.readFloat32}. */
  async readFloat32(name: string): Promise<Float32Array> {
    return this.#shard(name).readFloat32(name);
  }

  /** Its values in int32, see {@link TensorReader.readInt32}. */
  async readInt32(name: string): Promise<Int32Array> {
    return this.#shard(name).readInt32(name);
  }

  /** Closes all shards; nothing can be read afterwards. */
  async close(): Promise<void> {
    await Promise.all(this.#shards.map((shard) => shard.close()));
  }

  #shard(name: string): SafetensorsFile {
    const shard = this.#shardOf.get(name);
    if (shard === undefined) {
      throw new D2DMoEError(
        'SAFETENSORS_TENSOR_MISSING',
        `${this.#name}: there is no tensor named ${quote(name)}.`,
      );
    }
    return shard;
  }
}

/**
 * Opens a sharded checkpoint; only the shards' headers are read. Tensors that a shard holds but the index does not
 * name are left out.
 *
 * @param index The parsed `model.safetensors.index.json`; its `weight_map` gives each tensor's shard.
 * @param open Opens a shard by its file name, which is a plain name without folders.
 * @param name What messages call the index.
 * @throws D2DMoEError `SAFETENSORS_INDEX_INVALID` when the index is not one or names a shard outside its folder,
 *   `SAFETENSORS_SHARD_MISSING` when a shard is not there, `SAFETENSORS_TENSOR_MISSING` when a shard lacks a tensor
 *   that the index puts there, and whatever {@link openSafetensors} throws for a shard.
 */
export async function openSharded(
  index: unknown,
  open: (file: string) => Promise<ByteSource>,
  name = 'model.safetensors.index.json',
): Promise<ShardedSafetensors> {
  const weightMap = checkIndex(index, name);
  const files = [...new Set(weightMap.values())].sort();
  const results = await Promise.allSettled(files.map((file) => openShard(file, open, name)));
  const shards = results.flatMap((result) => (result.status === 'fulfilled' ? result.value : []));
  try {
    for (const result of results) {
      if (result.status === 'rejected') {
        throw result.reason;
      }
    }
    const byFile = new Map(files.map((file, i) => [file, shards[i] as SafetensorsFile]));
    const shardOf = new Map<string, SafetensorsFile>();
    for (const [tensor, file] of weightMap) {
      const shard = byFile.get(file) as SafetensorsFile;
      if (!shard.tensors.has(tensor)) {
        throw new D2DMoEError(
          'SAFETENSORS_TENSOR_MISSING',
          `${name}: weight_map puts tensor ${quote(tensor)} into ${quote(file)}, which does not hold it.`,
        );
      }
      shardOf.set(tensor, shard);
    }
    return new ShardedSafetensors(name, shards, shardOf);
  } catch (error) {
    await Promise.all(shards.map((shard) => shard.close()));
    throw error;
  }
}

async function openShard(
  file: string,
  open: (file: string) => Promise<ByteSource>,
  name: string,
): Promise<SafetensorsFile> {
  let source: ByteSource;
  try {
    source = await open(file);
  } catch (error) {
    if (D2DMoEError.isInstance(error) && error.code !== 'SAFETENSORS_FILE_MISSING') {
      throw error;
    }
    const reason = error instanceof Error ? error.message : String(error);
    throw new D2DMoEError(
      'SAFETENSORS_SHARD_MISSING',
      `${name}: shard ${quote(file)}, which weight_map names, cannot be opened: ${reason}`,
      { cause: error },
    );
  }
  return openSafetensors(source);
}

function checkIndex(index: unknown, name: string): Map<string, string> {
  const weightMap = isJsonObject(index) ? index['weight_map'] : undefined;
  if (!isJsonObject(weightMap)) {
    throw new D2DMoEError(
      'SAFETENSORS_INDEX_INVALID',
      `${name}: weight_map must be an object that gives the shard of each tensor.`,
    );
  }
  const entries = Object.entries(weightMap);
  for (const [tensor, file] of entries) {
    // The index comes with the weights and is no more trusted than they are: it must not reach other folders.
    if (typeof file !== 'string' || !/^[^/\\:\0]+$/.test(file) || file === '.' || file === '..') {
      throw new D2DMoEError(
        'SAFETENSORS_INDEX_INVALID',
        `${name}: weight_map must give tensor ${quote(tensor)} the plain name of a file in the same folder, not ${quote(String(file))}.`,
      );
    }
  }
  return new Map(entries as [string, string][]);
}
