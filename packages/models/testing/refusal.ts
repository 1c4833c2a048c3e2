import { expect } from 'vitest';

/** Matches an error by its code and its message, for `toThrow`. */
export const refusal = (code: string, message: RegExp): unknown =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });
