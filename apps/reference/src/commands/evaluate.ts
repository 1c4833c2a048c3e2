import { join } from 'node:path';
import { defaultTaus } from '../defaults.js';
import { useDevice } from '../device.js';
import { evaluate, rulesOf } from '../evaluate.js';
import { curveReport } from '../report.js';
import { routedSites, type SplitSite } from '../stages/sites.js';
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
  storageOption,
  withFolders,
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
      storageOption,
      {
        flag: 'report',
        type: 'string',
        placeholder: 'DIR',
        description: 'new folder for report.html and its figures (default: the folder of --out)',
      },
      ...stageOptions,
    ],
  },
  async (named, context: Context) => {
    const args = await withFolders(named, context);
    await useDevice(args.device, args.threads);
    const [{ site, entry }] = (await routedSites(args.ckpt)) as [SplitSite];
    const experts = site.hidden / entry.expert_size;
    const curve = await withProgress(args, context, (options) =>
      evaluate({
        ...options,
        dense: args.dense,
        data: dataOf(args),
        storage: args.storage,
        rules: rulesOf(args.rule, args.tau.length > 0 ? args.tau : defaultTaus, experts),
        ...(args.samples !== undefined && { samples: args.samples }),
        ...(args.report !== undefined && { report: args.report }),
      }),
    );
    console.log(curveReport(curve));
    console.log(`\nReport: ${join(args.report ?? args.out, 'report.html')}`);
    await writeJson(args.json, curve);
  },
);
