// Loaded before the command (`node --import`): writes the CPU seconds that it has taken, of all its threads, into the
// file D2DMOE_TEST_USAGE_FILE when it ends.
import { writeFileSync } from 'node:fs';

process.on('exit', () => {
  const { user, system } = process.cpuUsage();
  writeFileSync(
    /** @type {string} */ (process.env['D2DMOE_TEST_USAGE_FILE']),
    String((user + system) / 1e6),
  );
});
