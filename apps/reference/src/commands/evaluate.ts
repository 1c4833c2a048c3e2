import { dynamicConfig, readArchitecture } from '@d2dmoe/models';
import { readConfig } from '@d2dmoe/models/node';
import { D2DMoEError } from '@d2dmoe/core';
import { defaultTaus } from '../defaults.js';
import { useDevice } from '../device.js';
import { evaluate, rulesOf } from '../evaluate.js';
import { curveReport } from '../report.js';
import { defineCommand } from '../terminal/arguments.js';
import {
  checkpointArgument,
  type Context,
  dataOf,
  dataOptions,
  denseOption,
  outOption,
  samplesOption,
  stageOptions,
  withProgress,
  writeJson,
} from './options.js';

export const evaluateCommand = defineCommand(
  {
    name: 'evaluate',
    summary: 'Measure the cost–quality curve of a converted checkpoint on the test split',
    positionals: [checkpointArgument],
    options: [
      ...dataOptions,
      denseOption,
      outOption,
      {
        flag: 'rule',
        type: 'string',
        choices: ['threshold', 'topK', 'cumulativeShare'],
        default: 'threshold',
        description: 'how experts are selected',
      },
      {
        flag: 'tau',
        type: 'list',
        of: 'number',
        min: 0,
        max: 1,
        description: 'thresholds of the curve',
      },
      samplesOption,
      ...stageOptions,
    ],
  },
  async (args, context: Context) => {
    await useDevice(args.device);
    const config = await readConfig(args.ckpt);
    const { sites } = readArchitecture(config);
    const dynamic = dynamicConfig({ config, sites });
    const [site] = sites.filter(({ name }) => dynamic?.sites[name]);
    if (site === undefined) {
      throw new D2DMoEError(
        'NOT_CONVERTED',
        `The checkpoint ${args.ckpt} is dense: run d2dmoe convert on it first.`,
      );
    }
    const experts = site.hidden / (dynamic?.sites[site.name]?.expert_size as number);
    const curve = await withProgress(args, context, (options) =>
      evaluate({
        ...options,
        dense: args.dense,
        data: dataOf(args),
        rules: rulesOf(args.rule, args.tau.length > 0 ? args.tau : defaultTaus, experts),
        ...(args.samples !== undefined && { samples: args.samples }),
      }),
    );
    console.log(curveReport(curve));
    await writeJson(args.json, curve);
  },
);
