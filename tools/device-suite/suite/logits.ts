import { Random } from '@d2dmoe/core';
import { createModel, dynamicSubstitute, routerNames, type StoredTensor } from '@d2dmoe/models';
import { bufferSource, openSafetensors } from '@d2dmoe/safetensors';
import * as tf from '@tensorflow/tfjs-core';

/** The checkpoints of tools/fixtures that are converted here. */
export const convertedModels = ['tiny-vit', 'tiny-gpt2'] as const;
export type ConvertedModel = (typeof convertedModels)[number];

const expertSize = 8;
const routerWidth = 16;

/**
 * The logits that a converted model gives for its recorded batch on the current backend: experts of 8 neurons, random
 * routers, at least half of the greatest predicted norm.
 *
 * @param read a file of the checkpoint's folder
 * @returns the logits, and the share of experts that ran
 */
export async function convertedLogits(
  read: (file: string) => Promise<Uint8Array>,
): Promise<{ logits: number[]; density: number }> {
  const config = JSON.parse(new TextDecoder().decode(await read('config.json'))) as Record<
    string,
    unknown
  >;
  const tensors = await readTensors(await read('model.safetensors'));
  const sites = ['layers.0.ffn', 'layers.1.ffn'];
  const random = new Random(8);
  // Both are 32 wide; GPT-2's FFNs are four times as wide unless its config says otherwise.
  const dModel = 32;
  const hidden = Number(config['intermediate_size'] ?? 4 * dModel);
  for (const site of sites) {
    const names = routerNames(site);
    tensors.set(names.hidden, normal([routerWidth, dModel], random));
    tensors.set(names.output, normal([hidden / expertSize, routerWidth], random));
  }
  const entry = { expert_size: expertSize, router_width: routerWidth };
  const d2dmoe = {
    format_version: 1,
    tau: 0.5,
    sites: Object.fromEntries(sites.map((site) => [site, entry])),
  };
  const model = createModel({ ...config, d2dmoe }, (name) => tensors.get(name));
  const batch = await readTensors(await read('reference.safetensors'));
  const input = batch.get('a.input_ids') ?? batch.get('a.pixel_values');
  if (input === undefined) throw new Error('the reference has no batch');
  const shape = [...input.shape];
  const counts: tf.Tensor[] = [];
  const substitute = dynamicSubstitute(model, {
    rule: { rule: 'threshold', value: 0.5 },
    onSelection: (_, selection) => {
      counts.push(tf.keep(tf.mean(tf.cast(selection, 'float32'))));
    },
  });
  const logits = tf.tidy(
    () =>
      model.forward(
        batch.has('a.input_ids')
          ? { inputIds: tf.tensor<tf.Rank.R2>(input.data, shape as [number, number], 'int32') }
          : {
              pixelValues: tf.tensor<tf.Rank.R4>(
                input.data,
                shape as [number, number, number, number],
              ),
            },
        { substitute },
      ).logits,
  );
  const values = Array.from(await logits.data<'float32'>());
  const densities = await Promise.all(counts.map((count) => count.data()));
  substitute.dispose();
  model.dispose();
  tf.dispose([logits, ...counts]);
  const density = densities.reduce((sum, [value]) => sum + (value as number), 0) / counts.length;
  return { logits: values, density };
}

async function readTensors(bytes: Uint8Array): Promise<Map<string, StoredTensor>> {
  const reader = await openSafetensors(bufferSource(bytes));
  const tensors = new Map<string, StoredTensor>();
  for (const [name, { dtype, shape }] of reader.tensors) {
    if (name.startsWith('greedy.')) continue;
    const data =
      dtype === 'F32'
        ? await reader.readFloat32(name)
        : Float32Array.from(await reader.readInt32(name));
    tensors.set(name, { shape, data });
  }
  await reader.close();
  return tensors;
}

function normal(shape: [number, number], random: Random): StoredTensor {
  const data = Float32Array.from({ length: shape[0] * shape[1] }, () => random.normal());
  return { shape, data };
}
