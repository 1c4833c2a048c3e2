import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The workspace's root directory, without a slash at its end. */
export const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/[\\/]$/, '');

/** Puts the workspace's own tools on the PATH of every child, and keeps them from phoning home. */
export function settleEnvironment() {
  process.env['PATH'] = [join(root, 'node_modules', '.bin'), process.env['PATH']].join(delimiter);
  process.env['DO_NOT_TRACK'] = '1';
  process.env['TURBO_TELEMETRY_DISABLED'] = '1';
  process.env['TURBO_NO_UPDATE_NOTIFIER'] = '1';
  process.env['npm_config_update_notifier'] = 'false';
}
