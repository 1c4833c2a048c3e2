#!/usr/bin/env node
import { commands } from './commands/index.js';
import { runProgram } from './terminal/arguments.js';
import { runCommand } from './terminal/run-command.js';

await runCommand((signal) =>
  runProgram(
    {
      name: 'd2dmoe',
      summary:
        'Converts dense transformer checkpoints into dynamic-k Mixture-of-Experts and runs them for less.',
      commands,
    },
    process.argv.slice(2),
    { signal },
  ),
);
