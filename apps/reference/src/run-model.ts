import { D2DMoEError } from '@d2dmoe/core';
import { ExecutionCounter, thresholdRule } from '@d2dmoe/evaluation';
import {
  dynamicSubstitute,
  packModel,
  type ForwardOptions,
  type Model,
  readArchitecture,
  type Task,
} from '@d2dmoe/models';
import { loadModel, readConfig } from '@d2dmoe/models/node';
import { deviceStorage } from './device.js';
import { type SelectionArguments, thresholdsOf } from './selection.js';

/** A model that is loaded to be used. */
export interface RunningModel {
  model: Model;
  /** What to give to forward passes: selected experts alone of a converted model, nothing for a dense one. */
  options: Pick<ForwardOptions, 'substitute'>;
  /** (token, expert) pairs executed so far by site name; undefined for a dense model. */
  executed(): Promise<Map<string, number> | undefined>;
  /** Frees everything. */
  dispose(): void;
}

/**
 * Loads a checkpoint to be used for one of `tasks`, dense or converted.
 *
 * @throws D2DMoEError `INPUT_INVALID` where the checkpoint is for another task; what `loadModel` and `thresholdsOf`
 *   throw
 */
export async function runModel(
  checkpoint: string,
  tasks: readonly Task[],
  selection: SelectionArguments,
): Promise<RunningModel> {
  const { task } = readArchitecture(await readConfig(checkpoint));
  if (!tasks.includes(task)) {
    throw new D2DMoEError(
      'INPUT_INVALID',
      `The checkpoint ${checkpoint} is for ${task}, but one for ${tasks.join(' or ')} is needed here.`,
    );
  }
  const model = await loadModel(checkpoint);
  try {
    const thresholds = thresholdsOf(selection, model);
    if (thresholds === undefined) {
      return {
        model,
        options: {},
        executed: () => Promise.resolve(undefined),
        dispose: () => model.dispose(),
      };
    }
    packModel(model, { storage: selection.storage ?? deviceStorage() });
    const counter = new ExecutionCounter();
    const substitute = dynamicSubstitute(model, {
      rule: thresholdRule(thresholds),
      onSelection: counter.observe,
    });
    return {
      model,
      options: { substitute },
      executed: () => counter.read(),
      dispose: () => {
        counter.dispose();
        substitute.dispose();
        model.dispose();
      },
    };
  } catch (error) {
    model.dispose();
    throw error;
  }
}
