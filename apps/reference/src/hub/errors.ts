import { D2DMoEError } from '@d2dmoe/core';
import { HubApiError } from '@huggingface/hub';
import { describeRepo, type Repo } from './repo.js';
import type { HubSettings } from './settings.js';

/**
 * The error for an answer of the hub that is not a success.
 *
 * @param file The file that was asked for, in place of the repository itself.
 */
export function statusError(
  status: number,
  repo: Repo,
  { endpoint, token }: HubSettings,
  file?: string,
): D2DMoEError {
  const { host } = new URL(endpoint);
  const what = `${file === undefined ? '' : `${file} of `}${describeRepo(repo)}`;
  const neither = `There is no folder ${repo.name} here, and ${host}`;
  switch (status) {
    case 401:
    case 403:
      return new D2DMoEError(
        'HUB_ACCESS_DENIED',
        token === undefined
          ? `${neither} does not give ${what} to everyone (status ${status}): correct the name, or set HF_TOKEN to an access token that may read it.`
          : `${neither} does not give ${what} to the owner of HF_TOKEN (status ${status}): correct the name, use a token that may read it, or ask for access on its page.`,
      );
    case 404:
      return new D2DMoEError('HUB_NOT_FOUND', `${neither} does not have ${what} (status 404).`);
    default:
      return new D2DMoEError(
        'HUB_FAILED',
        `${host} answered the request for ${what} with status ${status}; try again later.`,
      );
  }
}

/** What went wrong in a call of the hub library, as one of our errors. */
export function hubError(error: unknown, repo: Repo, settings: HubSettings): D2DMoEError {
  if (D2DMoEError.isInstance(error)) return error;
  if (error instanceof HubApiError) return statusError(error.statusCode, repo, settings);
  return new D2DMoEError(
    'HUB_FAILED',
    `${new URL(settings.endpoint).host} gave an answer about ${describeRepo(repo)} that cannot be used: ${reasonOf(error)}.`,
    { cause: error },
  );
}

/** An error's message with its cause's: fetch itself says only "fetch failed". */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { message, cause } = error;
  if (!(cause instanceof Error)) return message;
  return `${message}, ${cause.message || (cause as NodeJS.ErrnoException).code}`;
}
