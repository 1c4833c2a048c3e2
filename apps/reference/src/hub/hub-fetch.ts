import { setTimeout as sleep } from 'node:timers/promises';
import { D2DMoEError, type ProgressCallback } from '@d2dmoe/core';
import { reasonOf } from './errors.js';

/** How often a request is repeated that the hub refused for being one too many. */
const patience = 4;
/** Seconds; the hub counts requests in windows of five minutes, so no honest wait is longer. */
const longestWait = 300;

/**
 * A `fetch` that `signal` aborts, with its reason as the error, and that waits and asks again where the hub says that
 * there were too many requests. A wait shows as a task of its own in the progress.
 *
 * @throws D2DMoEError `HUB_UNREACHABLE`, `HUB_RATE_LIMITED`
 */
export function hubFetch(
  signal: AbortSignal | undefined,
  onProgress: ProgressCallback | undefined,
): typeof fetch {
  return async (input, init) => {
    const { host } = new URL(input instanceof Request ? input.url : input);
    for (let repeats = 0; ; repeats++) {
      const response = await send(host, input, { ...init, ...(signal && { signal }) });
      if (response.status !== 429) return response;
      await response.body?.cancel();
      const seconds = secondsToWait(response.headers.get('retry-after')) ?? 2 ** repeats;
      if (repeats === patience || seconds > longestWait) {
        throw new D2DMoEError(
          'HUB_RATE_LIMITED',
          `${host} refuses more requests for now (status 429, ${repeats + 1} times); try again in ${Math.max(1, Math.ceil(seconds / 60))} min. An HF_TOKEN raises the limit.`,
        );
      }
      const name = `waiting ${Math.ceil(seconds)} s because ${host} had too many requests`;
      onProgress?.({ status: 'initiate', name });
      await sleep(1000 * seconds, undefined, { ...(signal && { signal }) }).catch(() => {});
      signal?.throwIfAborted();
      onProgress?.({ status: 'done', name });
    }
  };
}

async function send(
  host: string,
  input: Parameters<typeof fetch>[0],
  init: RequestInit,
): Promise<Response> {
  try {
    return await fetch(input, init);
  } catch (error) {
    init.signal?.throwIfAborted();
    throw new D2DMoEError(
      'HUB_UNREACHABLE',
      `${host} cannot be reached: ${reasonOf(error)}; check the network, or HF_ENDPOINT if it is set.`,
      { cause: error },
    );
  }
}

/** A Retry-After header's seconds, which it gives as such or as a date. */
function secondsToWait(header: string | null): number | undefined {
  if (header === null) return undefined;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isNaN(seconds) ? undefined : Math.max(0, seconds);
}
