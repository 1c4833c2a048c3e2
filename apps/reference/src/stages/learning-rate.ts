/** Linear warm-up to `peak` over the first twentieth of the steps, then a cosine down to a tenth of it at the end. */
export function learningRateAt(step: number, steps: number, peak: number): number {
  const warmup = Math.max(1, Math.round(steps / 20));
  if (step < warmup) return (peak * (step + 1)) / warmup;
  const done = (step - warmup) / Math.max(1, steps - warmup);
  return peak * (0.1 + 0.45 * (1 + Math.cos(Math.PI * done)));
}
