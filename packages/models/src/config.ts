import { D2DMoEError } from '@d2dmoe/core';
import type { Activation } from '@d2dmoe/kernels';

/** The architectures of this package, by config.json's `model_type`. */
export type ModelType = 'vit' | 'bert' | 'gpt2' | 'gemma';

/** Hugging Face's names of the activations that the kernels know. */
const activations: Record<string, Activation> = {
  relu: 'relu',
  gelu: 'gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
  silu: 'silu',
  swish: 'silu',
};

const describe = (value: unknown): string => {
  if (value === undefined) return 'is missing';
  const kind = value === null ? 'null' : Array.isArray(value) ? 'an array' : `a ${typeof value}`;
  return `is ${JSON.stringify(value)} (${kind})`;
};

/**
 * Typed access to config.json. Every accessor throws `CONFIG_INVALID`, naming the field and the type that would be
 * right, where the field has another type, or is missing and has no default. `null` counts as missing, as it does in
 * the files that transformers writes.
 */
export class ConfigReader {
  readonly #values: Record<string, unknown>;
  readonly #file: string;
  readonly #path: string;

  /**
   * @param where.file How the errors name the file; config.json by default.
   * @param where.path The object's path inside the file, with a dot at its end.
   */
  constructor(values: Record<string, unknown>, where: { file?: string; path?: string } = {}) {
    this.#values = values;
    this.#file = where.file ?? 'config.json';
    this.#path = where.path ?? '';
  }

  /** The error for a field that is not what it should be. */
  invalid(field: string, expected: string): D2DMoEError {
    return new D2DMoEError(
      'CONFIG_INVALID',
      `${this.#file}: field "${this.#path}${field}" ${describe(this.#values[field])}, but must be ${expected}.`,
    );
  }

  /** Whether the field holds a number. */
  isNumber(field: string): boolean {
    return typeof this.#values[field] === 'number';
  }

  /** Whether the field is present and not null. */
  has(field: string): boolean {
    return this.#values[field] !== undefined && this.#values[field] !== null;
  }

  #get(field: string, fallback: unknown): unknown {
    return this.#values[field] ?? fallback;
  }

  /** A positive integer. */
  count(field: string, fallback?: number): number {
    const value = this.#get(field, fallback);
    if (typeof value !== 'number' || !Number.isInteger(value) || value < 1) {
      throw this.invalid(field, 'a positive integer');
    }
    return value;
  }

  /** A finite number. */
  number(field: string, fallback?: number): number {
    const value = this.#get(field, fallback);
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      throw this.invalid(field, 'a number');
    }
    return value;
  }

  /** A finite number greater than 0. */
  positive(field: string, fallback?: number): number {
    const value = this.#get(field, fallback);
    if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
      throw this.invalid(field, 'a number greater than 0');
    }
    return value;
  }

  boolean(field: string, fallback?: boolean): boolean {
    const value = this.#get(field, fallback);
    if (typeof value !== 'boolean') throw this.invalid(field, 'true or false');
    return value;
  }

  string(field: string, fallback?: string): string {
    const value = this.#get(field, fallback);
    if (typeof value !== 'string') throw this.invalid(field, 'a string');
    return value;
  }

  /** Three finite numbers, such as one for each colour. */
  triple(field: string, fallback: number[]): number[] {
    const value = this.#get(field, fallback);
    if (!Array.isArray(value) || value.length !== 3 || !value.every(Number.isFinite)) {
      throw this.invalid(field, 'an array of three numbers');
    }
    return value as number[];
  }

  /** A JSON object, or undefined where it is missing. */
  object(field: string): ConfigReader | undefined {
    if (!this.has(field)) return undefined;
    return new ConfigReader(this.record(field), {
      file: this.#file,
      path: `${this.#path}${field}.`,
    });
  }

  /** A JSON array of objects. */
  objects(field: string): ConfigReader[] {
    const value = this.#values[field];
    if (!Array.isArray(value)) throw this.invalid(field, 'an array of objects');
    // An array is read as an object whose fields are its indices, so that errors name the entry.
    const entries = new ConfigReader(Object.fromEntries(value.entries()), {
      file: this.#file,
      path: `${this.#path}${field}.`,
    });
    return value.map((_, i) => {
      const entry = entries.object(String(i));
      if (entry === undefined) throw entries.invalid(String(i), 'an object');
      return entry;
    });
  }

  /** The raw value of {@link object}. */
  record(field: string): Record<string, unknown> {
    const value = this.#values[field];
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw this.invalid(field, 'an object');
    }
    return value as Record<string, unknown>;
  }

  /** An activation by its Hugging Face name. */
  activation(field: string, fallback?: string): Activation {
    const activation = activations[this.string(field, fallback)];
    if (activation === undefined) {
      throw this.invalid(field, `one of ${Object.keys(activations).join(', ')}`);
    }
    return activation;
  }

  /** Throws unless the field is missing or has the one value that this package implements. */
  only(field: string, supported: string | boolean): void {
    if (this.has(field) && this.#values[field] !== supported) {
      throw this.invalid(field, `${JSON.stringify(supported)}: nothing else is supported here`);
    }
  }

  /** Throws unless `divisor` (named `divisorField`) divides the field's value. */
  divisible(field: string, value: number, divisorField: string, divisor: number): void {
    if (value % divisor !== 0) {
      throw this.invalid(field, `a multiple of "${divisorField}" (${divisor})`);
    }
  }

  /** The classifier's labels from `id2label`; without it, as many as `num_labels` says, 2 by default as in transformers. */
  labels(): string[] {
    if (!this.has('id2label')) {
      return Array.from({ length: this.count('num_labels', 2) }, (_, i) => `LABEL_${i}`);
    }
    const byId = this.record('id2label');
    const count = Object.keys(byId).length;
    const labels = Array.from({ length: count }, (_, id) => byId[String(id)]);
    if (count === 0 || !labels.every((label) => typeof label === 'string')) {
      throw this.invalid('id2label', 'an object from the class numbers 0, 1, … to label strings');
    }
    return labels;
  }
}
