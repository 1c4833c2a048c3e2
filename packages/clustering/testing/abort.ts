import type { ProgressCallback } from '@d2dmoe/core';
import { expect } from 'vitest';

/** A split ends by the reason of an abort, before it and in the middle. */
export async function expectAborts(
  split: (options: { signal: AbortSignal; onProgress?: ProgressCallback }) => Promise<unknown>,
): Promise<void> {
  const reason = new Error('enough');
  await expect(split({ signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  const controller = new AbortController();
  setTimeout(() => controller.abort(reason));
  const seen: string[] = [];
  const aborted = split({
    signal: controller.signal,
    onProgress: ({ status }) => seen.push(status),
  });
  await expect(aborted).rejects.toBe(reason);
  expect(seen).toContain('initiate');
  expect(seen).not.toContain('done');
}
