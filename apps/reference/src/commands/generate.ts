import { readFile } from 'node:fs/promises';
import { D2DMoEError } from '@d2dmoe/core';
import { useDevice } from '../device.js';
import { generate, type GenerateResult } from '../generate.js';
import { selectionOptions } from '../selection.js';
import { defineCommand } from '../terminal/arguments.js';
import { formatDuration, formatPercent } from '../terminal/format.js';
import {
  checkpointArgument,
  type Context,
  deviceOptions,
  given,
  jsonOption,
  storageOption,
  withFolders,
  writeJson,
} from './options.js';

export const generateCommand = defineCommand(
  {
    name: 'generate',
    summary: 'Go on with a text, by a dense or a converted language model',
    positionals: [checkpointArgument],
    options: [
      { flag: 'prompt', type: 'string', description: 'the text to go on with' },
      {
        flag: 'prompt-file',
        type: 'string',
        placeholder: 'FILE',
        description: 'a UTF-8 file with the text to go on with, used as it is',
      },
      {
        flag: 'max-new-tokens',
        type: 'number',
        integer: true,
        min: 1,
        default: 128,
        description: 'stop after so many tokens; the end of the context stops too',
      },
      {
        flag: 'do-sample',
        type: 'boolean',
        description: 'draw tokens at random instead of taking the likeliest',
      },
      {
        flag: 'temperature',
        type: 'number',
        description: 'with --do-sample: divide logits by this (default: 1)',
      },
      {
        flag: 'top-k',
        type: 'number',
        integer: true,
        min: 0,
        description:
          'with --do-sample: draw from so many likeliest tokens, 0 for all (default: 50)',
      },
      {
        flag: 'top-p',
        type: 'number',
        description:
          'with --do-sample: draw from the likeliest tokens that sum to this probability (default: 1)',
      },
      {
        flag: 'repetition-penalty',
        type: 'number',
        description: 'above 1: make tokens that have occurred less likely (default: 1)',
      },
      {
        flag: 'eos-token-id',
        type: 'number',
        integer: true,
        min: -1,
        description: 'id that ends the text, -1 for none (default: what the checkpoint says)',
      },
      {
        flag: 'seed',
        type: 'number',
        integer: true,
        min: 0,
        default: 0,
        description: 'seed of --do-sample',
      },
      ...selectionOptions,
      storageOption,
      ...deviceOptions,
      jsonOption,
    ],
  },
  async ({ prompt, promptFile, ...named }, context: Context) => {
    const text = await promptOf(prompt, promptFile);
    const { ckpt, device, threads, precision, json, ...rest } = await withFolders(named, context);
    const { signal } = context;
    await useDevice(device, { threads, precision });
    let last = '\n';
    const write = (piece: string) => {
      last = piece;
      process.stdout.write(process.stdout.isTTY ? visible(piece) : piece);
    };
    const endLine = () => {
      if (!last.endsWith('\n')) write('\n');
    };
    // Before the line that says so on standard error.
    signal.addEventListener('abort', endLine, { once: true });
    let result: GenerateResult;
    try {
      result = await generate({
        checkpoint: ckpt,
        prompt: text,
        onText: write,
        signal,
        ...given(rest),
      });
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error;
      throw new D2DMoEError('INTERRUPTED', 'interrupted; the text ends where it was.');
    } finally {
      signal.removeEventListener('abort', endLine);
    }
    endLine();
    const { seconds, tokens, cost } = result;
    console.error(
      `${tokens} tokens in ${formatDuration(seconds)}, ${(tokens / seconds).toPrecision(3)} tokens per second; average cost ${formatPercent(cost)} of the dense model's`,
    );
    await writeJson(json, result);
  },
);

async function promptOf(prompt: string | undefined, file: string | undefined): Promise<string> {
  if ((prompt === undefined) === (file === undefined)) {
    throw new D2DMoEError('USAGE', 'generate needs either --prompt TEXT or --prompt-file FILE.');
  }
  if (file === undefined) return prompt as string;
  let bytes: Uint8Array;
  try {
    bytes = await readFile(file);
  } catch (error) {
    throw new D2DMoEError(
      'FILE_UNREADABLE',
      `The prompt file ${file} cannot be read: ${(error as Error).message}.`,
      { cause: error },
    );
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    throw new D2DMoEError('FILE_UNREADABLE', `The prompt file ${file} is not UTF-8 text.`, {
      cause: error,
    });
  }
}

/** `text` for a terminal, which control characters could put into any state. */
function visible(text: string): string {
  return text.replaceAll(/(?![\n\t])\p{Cc}/gu, '\uFFFD');
}
