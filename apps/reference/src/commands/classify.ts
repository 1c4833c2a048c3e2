import { classify } from '../classify.js';
import { useDevice } from '../device.js';
import { selectionOptions } from '../selection.js';
import { defineCommand } from '../terminal/arguments.js';
import { formatPercent } from '../terminal/format.js';
import {
  checkpointArgument,
  type Context,
  deviceOptions,
  given,
  storageOption,
  jsonOption,
  withFolders,
  writeJson,
} from './options.js';

/** Classes shown for each input. */
const shown = 5;

export const classifyCommand = defineCommand(
  {
    name: 'classify',
    summary: 'Classify texts or image files, by a dense or a converted classifier',
    positionals: [
      checkpointArgument,
      {
        name: 'INPUT',
        description: 'texts for a text classifier, image files for an image classifier',
        variadic: true,
      },
    ],
    options: [...selectionOptions, storageOption, ...deviceOptions, jsonOption],
  },
  async (named, context: Context) => {
    const {
      ckpt,
      input: inputs,
      device,
      threads,
      precision,
      json,
      ...rest
    } = await withFolders(named, context);
    const { signal } = context;
    await useDevice(device, { threads, precision });
    const result = await classify({ checkpoint: ckpt, inputs, signal, ...given(rest) });
    for (const { input, truncated, tokens, classes } of result.classifications) {
      console.log(truncated ? `${input} (cut after ${tokens} tokens)` : input);
      const top = classes.slice(0, shown);
      const width = Math.max(...top.map(({ label }) => label.length));
      for (const { label, probability } of top) {
        console.log(`  ${label.padEnd(width)}  ${formatPercent(probability).padStart(7)}`);
      }
    }
    console.log(`average cost ${formatPercent(result.cost)} of the dense model's`);
    await writeJson(json, result);
  },
);
