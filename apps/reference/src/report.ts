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

/** A test curve for people, and the operating points below it. */
export function curveReport(curve: CurveJson): string {
  const { points, dense } = curveFromJson(curve);
  const unit = curve.model.task === 'text-generation' ? 'blocks' : 'samples';
  return [
    '',
    `Cost and quality on the test split (${curve.dense.samples} ${unit}, ${curve.dense.tokens} tokens):`,
    '',
    curveTable(points, dense),
    ...operatingPointLines(curve),
  ].join('\n');
}

/** What each operating point gave on the test split, a line each. */
export function operatingPointLines({
  operating_points: named = [],
  score,
  dense,
}: Pick<CurveJson, 'operating_points' | 'score' | 'dense'>): string[] {
  if (named.length === 0) return [];
  const width = Math.max(...named.map(({ name }) => name.length));
  return [
    '',
    `Thresholds chosen on the validation split, on the test split (dense ${score.name} ${dense.score.toFixed(4)}):`,
    '',
    ...named.map(({ name, point, global }) => {
      const tau =
        point.tau === undefined ? 'tau by layer' : `tau ${Number(point.tau.toPrecision(3))}`;
      const one = global
        ? `; with one tau for all layers ${global.score.toFixed(4)} at ${global.cost.toFixed(3)}`
        : '';
      return `  ${name.padEnd(width)}  ${score.name} ${point.score.toFixed(4)} at ${point.cost.toFixed(3)} of the dense cost, ${tau}${one}`;
    }),
  ];
}
