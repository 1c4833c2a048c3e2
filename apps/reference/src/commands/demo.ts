import { demo } from '../demo/demo.js';
import { useDevice } from '../device.js';
import { planReport } from '../report.js';
import { defineCommand } from '../terminal/arguments.js';
import { reportConversion } from './convert.js';
import { type Context, stageOptions, withProgress, writeJson } from './options.js';

export const demoCommand = defineCommand(
  {
    name: 'demo',
    summary:
      'Draw images, train a small ViT on them, convert it: the whole job, without network, in minutes',
    positionals: [],
    options: [
      {
        flag: 'out',
        type: 'string',
        placeholder: 'DIR',
        default: 'demo',
        description: 'folder to write',
      },
      ...stageOptions,
    ],
  },
  async (args, context: Context) => {
    await useDevice(args.device, args);
    const conversion = await withProgress(args, context, (options) =>
      demo({ ...options, onPlan: (plan, data) => console.log(planReport(plan, data)) }),
    );
    reportConversion(conversion, `${args.out}/converted`);
    await writeJson(args.json, conversion);
  },
);
