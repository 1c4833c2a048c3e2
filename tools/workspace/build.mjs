import { requireSuccess, run } from './children.mjs';

/**
 * Builds the packages whose sources have changed. Quiet unless something fails.
 *
 * @param {string} [target] One package, with those that it depends on; all of them by default.
 */
export async function build(target) {
  const notice = setTimeout(() => console.error('Building the packages …'), 1000);
  const outcome = await turboBuild(target);
  clearTimeout(notice);
  requireSuccess(outcome, 'the packages could not be built; the lines above say why.');
}

/** @param {string} [target] */
export function turboBuild(target) {
  const filter = target === undefined ? [] : [`--filter=${target}...`];
  const quiet = ['--output-logs=errors-only', '--no-update-notifier'];
  return run('turbo', ['run', 'build', ...filter, ...quiet], { quiet: true });
}
