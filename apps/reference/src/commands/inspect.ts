import { denseCost } from '@d2dmoe/evaluation';
import { dynamicConfig, readArchitecture } from '@d2dmoe/models';
import { readConfig } from '@d2dmoe/models/node';
import { openCheckpoint } from '@d2dmoe/safetensors/node';
import { defineCommand } from '../terminal/arguments.js';
import { formatBytes, formatCount, formatPercent } from '../terminal/format.js';
import { checkpointArgument, type Context, jsonOption, withFolders, writeJson } from './options.js';

export const inspectCommand = defineCommand(
  {
    name: 'inspect',
    summary:
      'Say what a checkpoint is: architecture, sites, where its cost lies, and how it was converted',
    positionals: [checkpointArgument],
    options: [jsonOption],
  },
  async (named, context: Context) => {
    const { ckpt, json } = await withFolders(named, context);
    const config = await readConfig(ckpt);
    const architecture = readArchitecture(config);
    const { modelType, task, shape, sites, activation } = architecture;
    const reader = await openCheckpoint(ckpt);
    const tensors = [...reader.tensors.values()];
    await reader.close();
    const size = (lengths: readonly number[]) =>
      lengths.reduce((product, length) => product * length, 1);
    const parameters = tensors.reduce((sum, tensor) => sum + size(tensor.shape), 0);
    const bytes = tensors.reduce((sum, { begin, end }) => sum + end - begin, 0);
    const cost = denseCost(shape, shape.maxPositions);
    const dynamic = dynamicConfig({ config, sites });
    const ffns = sites.filter(({ kind }) => kind === 'feedForward');
    const { total, ...parts } = cost;

    console.log(`${modelType}, ${task}`);
    console.log(
      `  ${shape.layers} layers of width ${shape.dModel}, ${shape.heads} heads (${shape.kvHeads} for keys and values) of ${shape.headDim}`,
    );
    console.log(`  FFNs of ${shape.hidden}${shape.gated ? ', gated' : ''}, ${activation}`);
    console.log(
      `  ${formatCount(parameters)} parameters in ${tensors.length} tensors, ${formatBytes(bytes)}`,
    );
    console.log(
      `  ${formatCount(total)} multiply-adds for a sample of ${shape.maxPositions} positions:`,
    );
    for (const [name, value] of Object.entries(parts)) {
      if (value > 0) console.log(`    ${name.padEnd(12)} ${formatPercent(value / total)}`);
    }
    if (dynamic === undefined) {
      console.log(`  dense; ${ffns.length} FFNs can be converted`);
    } else {
      const own = typeof dynamic.tau === 'number' ? `tau ${dynamic.tau}` : 'a tau for each layer';
      const replaced = Object.keys(dynamic.projections ?? {});
      if (replaced.length > 0) {
        console.log(`  ${replaced.length} projections replaced by two layers each`);
      }
      console.log(`  converted, runs at ${own} unless told otherwise:`);
      for (const site of sites) {
        const entry = dynamic.sites[site.name];
        if (entry === undefined) continue;
        const router =
          entry.router_width === undefined
            ? 'no router yet'
            : `router of width ${entry.router_width}`;
        console.log(
          `    ${site.name}: ${site.hidden / entry.expert_size} experts of ${entry.expert_size}, ${router}`,
        );
      }
      const points = Object.entries(dynamic.calibration?.operating_points ?? {});
      if (points.length > 0)
        console.log('  operating points, as measured on the validation split:');
      for (const [name, { score, cost }] of points) {
        console.log(
          `    ${name}: ${dynamic.calibration?.score} ${score.toFixed(4)} at ${cost.toFixed(3)} of the dense cost`,
        );
      }
    }
    await writeJson(json, {
      modelType,
      task,
      activation,
      shape,
      parameters,
      bytes,
      cost,
      sites,
      dynamic,
    });
  },
);
