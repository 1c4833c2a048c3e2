import { classifyCommand } from './classify.js';
import { convertCommand } from './convert.js';
import { demoCommand } from './demo.js';
import { doctorCommand } from './doctor.js';
import { evaluateCommand } from './evaluate.js';
import { generateCommand } from './generate.js';
import { inspectCommand } from './inspect.js';
import {
  attentionCommand,
  calibrateCommand,
  finetuneCommand,
  routeCommand,
  sparsifyCommand,
  splitCommand,
} from './stages.js';

/** The commands of `d2dmoe`, in the order of its help. */
export const commands = [
  demoCommand,
  doctorCommand,
  inspectCommand,
  convertCommand,
  sparsifyCommand,
  attentionCommand,
  splitCommand,
  routeCommand,
  finetuneCommand,
  calibrateCommand,
  evaluateCommand,
  generateCommand,
  classifyCommand,
];
