/** What a ratio has to reach, or must not exceed. */
export type Bar = { atLeast: number } | { atMost: number };

/** Whether a value meets a bar; a missing or undefined value never does. */
export function holds(bar: Bar, value: number | null): boolean {
  if (value === null) return false;
  return 'atLeast' in bar ? value >= bar.atLeast : value <= bar.atMost;
}

/** "≥ 1.35" or "≤ 0.2". */
export function describeBar(bar: Bar): string {
  return 'atLeast' in bar ? `≥ ${bar.atLeast}` : `≤ ${bar.atMost}`;
}
