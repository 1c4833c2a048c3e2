/** The share of a run in which the learning rate rises. */
const warmup = 1 / 20;

/**
 * The learning rate at a step, counted from 0: linear over the first twentieth of the run up to `peak`, then half a
 * cosine down to 0 (Loshchilov and Hutter 2017).
 */
export function warmupCosine(peak: number, steps: number, step: number): number {
  const rising = Math.ceil(steps * warmup);
  if (step < rising) return (peak * (step + 1)) / rising;
  const progress = Math.min(1, (step - rising) / (steps - rising));
  return (peak * (1 + Math.cos(Math.PI * progress))) / 2;
}
