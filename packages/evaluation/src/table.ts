import type { CurvePoint, DenseEvaluation } from './evaluate.js';

const RULE_SYMBOLS = { threshold: 'τ', topK: 'k', cumulativeShare: 'share' };

/**
 * A curve as plain text, one line a point in the order given: the rule's value, the score, relative cost in total and
 * of the converted layers, and the share of experts executed, mean over converted sites. A dense evaluation becomes
 * the first line.
 */
export function curveTable(points: readonly CurvePoint[], dense?: DenseEvaluation): string {
  const score = dense?.score ?? points[0]?.score;
  const header = [
    'rule',
    score?.name ?? 'score',
    'total cost',
    'converted cost',
    'experts executed',
  ];
  const lines = points.map((point) => [
    ruleLabel(point),
    point.score.value.toFixed(4),
    point.cost.toFixed(3),
    point.convertedCost.toFixed(3),
    `${(100 * meanExecuted(point)).toFixed(1)} %`,
  ]);
  const reference = dense ? [['dense', dense.score.value.toFixed(4), '1.000', '1.000', '']] : [];
  return alignColumns([header, ...reference, ...lines]);
}

/** `τ 0.1`, `k 12`, `share 0.9`, or `per site` where sites have rules of their own. */
function ruleLabel({ rule }: CurvePoint): string {
  if (typeof rule.rule !== 'string') return 'per site';
  return `${RULE_SYMBOLS[rule.rule]} ${Number(rule.value.toPrecision(4))}`;
}

function meanExecuted({ executed }: CurvePoint): number {
  const shares = Object.values(executed);
  return shares.reduce((sum, share) => sum + share, 0) / shares.length;
}

/** First column to the left, the others to the right, two spaces between; no spaces at a line's end. */
function alignColumns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] as readonly string[]).map((_, column) =>
    Math.max(...rows.map((row) => (row[column] as string).length)),
  );
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => {
        const width = widths[column] as number;
        return column === 0 ? cell.padEnd(width) : cell.padStart(width);
      })
      .join('  ')
      .trimEnd();
  return rows.map(line).join('\n');
}
