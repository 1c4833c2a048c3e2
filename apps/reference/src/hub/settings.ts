import { D2DMoEError } from '@d2dmoe/core';
import { getHFHubCachePath, HUB_URL } from '@huggingface/hub';

/** Where the hub is and how to use it, as the environment says. */
export interface HubSettings {
  /** Address without a slash at its end. */
  endpoint: string;
  token: string | undefined;
  /** Whether only the cache may be used. */
  offline: boolean;
  /** The cache folder, which holds `models--owner--name` and `datasets--owner--name`. */
  cache: string;
}

/**
 * Reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and, for the cache, HF_HUB_CACHE and HF_HOME from the environment.
 *
 * @throws D2DMoEError `HUB_SETTING_INVALID`
 */
export function hubSettings(): HubSettings {
  const { HF_ENDPOINT: endpoint = '', HF_TOKEN = '', HF_HUB_OFFLINE: offline = '' } = process.env;
  if (endpoint !== '' && !(/^https?:\/\//.test(endpoint) && URL.canParse(endpoint))) {
    throw new D2DMoEError(
      'HUB_SETTING_INVALID',
      `HF_ENDPOINT is "${endpoint}"; it must be an address such as ${HUB_URL}.`,
    );
  }
  const token = HF_TOKEN.trim();
  if (token !== '' && !/^hf_[\x21-\x7e]+$/.test(token)) {
    // The value is a secret, so the message does not show it.
    throw new D2DMoEError(
      'HUB_SETTING_INVALID',
      'HF_TOKEN does not hold an access token of the hub: one begins with hf_ and has no spaces in it.',
    );
  }
  return {
    endpoint: (endpoint || HUB_URL).replace(/\/+$/, ''),
    token: token === '' ? undefined : token,
    offline: /^(1|on|yes|true)$/i.test(offline),
    cache: getHFHubCachePath(),
  };
}
