import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { executedByPosition } from '@d2dmoe/evaluation';
import type { ImageSample, TextSample } from '@d2dmoe/evaluation/report';
import type { SelectionRule } from '@d2dmoe/kernels';
import type { Batch, Model, Site } from '@d2dmoe/models';
import { loadImageProcessor, loadTokenizer } from '@d2dmoe/models/node';
import * as tf from '@tensorflow/tfjs-core';
import sharp from 'sharp';
import type { ImageExample, TextExample } from '../data/index.js';
import type { PreparedData } from './prepare.js';

/** Samples that a report shows. */
const shownSamples = 6;
/** Tokens of a language model's document that a report shows. */
const shownTokens = 120;
/** Language models' documents that a report shows. */
const shownDocuments = 2;

/** The first samples of the test split and where a converted model spends its experts on them. */
export async function reportSamples(
  checkpoint: string,
  model: Model,
  { dataset, architecture }: PreparedData,
  rule: SelectionRule | ((site: Site) => SelectionRule),
): Promise<{ images: ImageSample[] } | { texts: TextSample[] }> {
  const name = (label: number) =>
    dataset.labels?.[label] ?? architecture.labels?.[label] ?? `class ${label}`;
  const run = async (batch: Batch) => {
    try {
      const [sample] = await executedByPosition(model, batch, rule);
      return sample as NonNullable<typeof sample>;
    } finally {
      tf.dispose({ ...batch });
    }
  };
  const answer = (logits: Float32Array) => name(logits.indexOf(Math.max(...logits)));
  if (model.task === 'image-classification') {
    const processor = await loadImageProcessor(checkpoint);
    const images: ImageSample[] = [];
    for (const { image, label } of dataset.test.slice(0, shownSamples) as ImageExample[]) {
      const pixels = await processor.process(image);
      const side = Math.sqrt(pixels.length / 3);
      const { executed, logits } = await run({
        pixelValues: tf.tensor4d(pixels, [1, 3, side, side]),
      });
      // The first position is the class token.
      const patches = executed.slice(1);
      const columns = Math.sqrt(patches.length);
      const png = await sharp(image).resize(side, side, { fit: 'fill' }).png().toBuffer();
      images.push({
        image: `data:image/png;base64,${png.toString('base64')}`,
        columns,
        rows: columns,
        executed: patches,
        label: name(label),
        predicted: answer(logits),
      });
    }
    return { images };
  }
  const tokenizer = await loadTokenizer(checkpoint);
  const special = await specialTokens(checkpoint);
  const isClassifier = model.task === 'text-classification';
  const count = isClassifier ? shownSamples : shownDocuments;
  const maxLength = Math.min(
    architecture.shape.maxPositions,
    isClassifier ? Number.POSITIVE_INFINITY : shownTokens,
  );
  const texts: TextSample[] = [];
  for (const example of dataset.test.slice(0, count) as TextExample[]) {
    const ids = tokenizer.encode(example.text, { maxLength });
    const { executed, logits } = await run({
      inputIds: tf.tensor2d(ids, [1, ids.length], 'int32'),
    });
    texts.push({
      tokens: ids.map((id) => special.get(id) ?? tokenizer.decode([id])),
      executed,
      ...(isClassifier && { label: name(example.label), predicted: answer(logits) }),
    });
  }
  return { texts };
}

/** The tokens that decoding leaves out, by id. */
async function specialTokens(checkpoint: string): Promise<Map<number, string>> {
  const { added_tokens: added = [] } = JSON.parse(
    await readFile(join(checkpoint, 'tokenizer.json'), 'utf8'),
  ) as { added_tokens?: { id: number; content: string }[] };
  return new Map(added.map(({ id, content }) => [id, content]));
}
