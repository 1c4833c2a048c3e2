import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { Random } from '@d2dmoe/core';
import { createModel, type Model, type StoredTensor } from '@d2dmoe/models';
import { openCheckpoint } from '@d2dmoe/safetensors/node';

type TinyModel = 'tiny-vit' | 'tiny-bert' | 'tiny-gpt2' | 'tiny-gemma-gqa';

/** Path of a file among the recorded tiny models. */
export function fixture(name: TinyModel, file = ''): string {
  return fileURLToPath(new URL(`../../../tools/fixtures/${name}/${file}`, import.meta.url));
}

/** Experts of 4 neurons and routers of width 6 on every FFN. */
export const tinyExpertSize = 4;
export const tinyRouterWidth = 6;

/** A recorded tiny model (2 layers, width 32, hidden 64, of GPT-2 128) as converted: with routers drawn from a seed. */
export async function convertedTinyModel(name: TinyModel): Promise<Model> {
  const config = JSON.parse(await readFile(fixture(name, 'config.json'), 'utf8')) as Record<
    string,
    unknown
  >;
  const tensors = new Map<string, StoredTensor>();
  const reader = await openCheckpoint(fixture(name));
  for (const [tensor, { shape }] of reader.tensors) {
    tensors.set(tensor, { shape, data: await reader.readFloat32(tensor) });
  }
  await reader.close();
  const random = new Random(20);
  const draw = (...shape: [number, number]): StoredTensor => ({
    shape,
    data: Float32Array.from({ length: shape[0] * shape[1] }, () => random.normal()),
  });
  const hidden = name === 'tiny-gpt2' ? 128 : 64;
  for (const layer of [0, 1]) {
    const router = `d2dmoe.layers.${layer}.ffn.router`;
    tensors.set(`${router}.hidden.weight`, draw(tinyRouterWidth, 32));
    tensors.set(`${router}.output.weight`, draw(hidden / tinyExpertSize, tinyRouterWidth));
  }
  const site = { expert_size: tinyExpertSize, router_width: tinyRouterWidth };
  const sites = { 'layers.0.ffn': site, 'layers.1.ffn': site };
  const dynamic = { format_version: 1, tau: 0, sites };
  return createModel({ ...config, d2dmoe: dynamic }, (tensor) => tensors.get(tensor));
}
