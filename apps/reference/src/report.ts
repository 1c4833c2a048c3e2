import { curveFromJson, type CurveJson, curveTable } from '@d2dmoe/evaluation';
import type { Plan } from './plan.js';
import type { PreparedData } from './stages/prepare.js';
import { formatBytes, formatDuration } from './terminal/format.js';

/** A conversion's plan for people. */
export function planReport(plan: Plan, { architecture, dataset }: PreparedData): string {
  const { train, validation, test, splitOff } = dataset;
  const width = Math.max(...plan.stages.map(({ name }) => name.length));
  const work = Math.max(...plan.stages.map((stage) => stage.work.length));
  const unit = architecture.task === 'text-generation' ? 'documents' : 'samples';
  return [
    `${architecture.modelType}, ${architecture.task}; ${train.length} ${unit} to train on, ${validation.length} to validate, ${test.length} to test`,
    ...(splitOff === undefined ? [] : [splitOff]),
    ...plan.stages.map(
      (stage) =>
        `  ${stage.name.padEnd(width)}  ${stage.work.padEnd(work)}  about ${formatDuration(stage.seconds)}`,
    ),
    `  in all about ${formatDuration(plan.seconds)}, ${formatBytes(plan.disk)} of disk, ${formatBytes(plan.memory)} of memory`,
    '',
  ].join('\n');
}

/** A test curve for people; the chosen threshold is named below it. */
export function curveReport(curve: CurveJson, tau?: number): string {
  const { points, dense } = curveFromJson(curve);
  const unit = curve.model.task === 'text-generation' ? 'blocks' : 'samples';
  const chosen = tau === undefined ? undefined : points.find((point) => point.tau === tau);
  const lines = [
    '',
    `Cost and quality on the test split (${curve.dense.samples} ${unit}, ${curve.dense.tokens} tokens):`,
    '',
    curveTable(points, dense),
  ];
  if (chosen) {
    lines.push(
      '',
      `Chosen on the validation split: tau ${tau}, ${curve.score.name} ${chosen.score.value.toFixed(4)} (dense ${curve.dense.score.toFixed(4)}) at ${chosen.cost.toFixed(3)} of the dense cost.`,
    );
  }
  return lines.join('\n');
}
