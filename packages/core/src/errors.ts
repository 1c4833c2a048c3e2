const marker = Symbol.for('d2dmoe.error');

/**
 * The one error class of all d2dmoe packages. `code` is stable and may be tested against; `message` is one sentence
 * that says what was wrong, where, and what would be right. The marker symbol makes {@link D2DMoEError.isInstance}
 * work across duplicate installs of this package, where `instanceof` does not.
 */
export class D2DMoEError extends Error {
  /** What {@link D2DMoEError.isInstance} looks for. */
  readonly [marker] = true;
  /** Stable and upper-case, as in `CONFIG_INVALID`: what programs tell errors apart by. */
  readonly code: string;

  /**
   * @param code Stable, upper-case, prefixed by its area: `SAFETENSORS_TRUNCATED`, `CONFIG_INVALID`.
   * @param message One clear sentence.
   */
  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'D2DMoEError';
    this.code = code;
  }

  /** Whether `error` is a D2DMoEError, of this copy of the package or of another one. */
  static isInstance(error: unknown): error is D2DMoEError {
    return typeof error === 'object' && error !== null && marker in error;
  }
}
