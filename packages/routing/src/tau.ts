/**
 * The paper's threshold τ for the value that its published code calls by the same name, 1 − τ (Szatkowski et al. 2024):
 * there 1, here 0 runs every expert.
 */
export function tauFromReference(tau: number): number {
  return 1 - tau;
}
