// A process whose memory is measured. `make FOLDER` writes a dense checkpoint and its conversion there; `load FOLDER`
// loads one of them, runs it, and sends what memory that took.
import { Random } from '@d2dmoe/core';
import { DynamicKExperts } from '@d2dmoe/kernels';
import { useWasm } from '@d2dmoe/kernels/node';
import { dynamicSubstitute, initModel, packModel } from '@d2dmoe/models';
import { loadModel, saveModel } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import { collectGarbage } from './collect-garbage.js';

/** What `load` sends. */
export interface Loaded {
  /** Resident set after the first forward pass, in bytes. */
  resident: number;
  /** Of all experts, so equal for both models. */
  logits: Float32Array;
}

const layers = 6;
const config = {
  model_type: 'gpt2',
  n_embd: 768,
  n_layer: layers,
  n_head: 12,
  vocab_size: 2048,
  n_positions: 64,
  activation_function: 'relu',
};
const site = { expert_size: 128, router_width: 128 };
const converted = {
  ...config,
  d2dmoe: {
    format_version: 1,
    tau: 0.5,
    sites: Object.fromEntries(
      Array.from({ length: layers }, (_, layer) => [`layers.${layer}.ffn`, site]),
    ),
  },
};

async function make(folder: string): Promise<void> {
  for (const [name, model] of Object.entries({ dense: config, converted })) {
    await saveModel(initModel(model, new Random(1)), `${folder}/${name}`);
  }
}

async function load(folder: string): Promise<Loaded> {
  const model = await loadModel(folder);
  const dynamic = model.routers.size > 0;
  if (dynamic && tf.getKernel(DynamicKExperts, 'wasm') === undefined) {
    throw new Error(`The wasm backend has no ${DynamicKExperts} kernel.`);
  }
  // Before anything else asks for memory, so that what the dense weights leave free is taken again.
  if (dynamic) packModel(model);
  const ids = Int32Array.from({ length: 64 }, (_, i) => (i * 31) % config.vocab_size);
  let tau = converted.d2dmoe.tau;
  const rule = () => ({ rule: 'threshold' as const, value: tau });
  const options = dynamic ? { substitute: dynamicSubstitute(model, { rule }) } : {};
  const forward = () => {
    const logits = tf.tidy(() => {
      const inputIds = tf.tensor2d(ids, [1, 64], 'int32');
      return model.forward({ inputIds }, options).logits;
    });
    const values = logits.dataSync<'float32'>();
    logits.dispose();
    return values;
  };
  forward();
  collectGarbage();
  const { rss: resident } = process.memoryUsage();
  tau = 0;
  return { resident, logits: forward() };
}

const [, , task, folder = ''] = process.argv;
const reply = await work().catch((error: unknown) => ({ error: String(error) }));
process.send?.(reply, () => process.disconnect());

async function work(): Promise<Loaded | Record<string, never>> {
  await useWasm({ threads: 1 });
  if (task === 'load') return load(folder);
  await make(folder);
  return {};
}
