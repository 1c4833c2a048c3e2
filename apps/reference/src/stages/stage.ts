import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { D2DMoEError, type ProgressCallback } from '@d2dmoe/core';
import { writeFileAtomic } from '@d2dmoe/safetensors/node';
import { Resume } from './resume.js';

/** What every stage takes besides its own settings. */
export interface StageOptions {
  /** Checkpoint folder that the stage reads. */
  input: string;
  /** Checkpoint folder that the stage writes. */
  output: string;
  /** Seed of everything random in the stage. */
  seed: number;
  /** Seconds between two saves of the resume state; default 30. */
  saveEvery?: number;
  onProgress?: ProgressCallback;
  /** Aborting ends the stage at a point from which the same call resumes. */
  signal?: AbortSignal;
}

/** Figures of one step or of one site, by name. */
export type Metrics = Record<string, number | string>;

/** The record that a finished stage leaves in its folder as `<stage>.stage.json`. */
export interface StageRecord {
  format_version: 1;
  stage: string;
  /** sha256 over everything that determines the result: inputs, settings, seed, backend. */
  key: string;
  inputs: Record<string, string>;
  settings: Record<string, unknown>;
  seed: number;
  metrics: Metrics[];
  seconds: number;
}

const recordFile = (stage: string) => `${stage}.stage.json`;

/** sha256 of a checkpoint folder's config and weights. */
export async function hashCheckpoint(directory: string): Promise<string> {
  const hash = createHash('sha256');
  let files: string[];
  try {
    files = await readdir(directory);
  } catch (error) {
    throw new D2DMoEError(
      'CHECKPOINT_NOT_FOUND',
      `There is no checkpoint folder ${directory}: it needs a config.json and a model.safetensors.`,
      { cause: error },
    );
  }
  const parts = files.filter(
    (name) => name === 'config.json' || /^model.*\.safetensors$/.test(name),
  );
  for (const name of parts.sort()) {
    hash.update(name);
    for await (const chunk of createReadStream(join(directory, name))) hash.update(chunk as Buffer);
  }
  return hash.digest('hex');
}

/** A stage's record in a folder, or undefined where there is none that can be read. */
export async function readRecord(
  directory: string,
  stage: string,
): Promise<StageRecord | undefined> {
  try {
    return JSON.parse(await readFile(join(directory, recordFile(stage)), 'utf8')) as StageRecord;
  } catch {
    return undefined;
  }
}

/**
 * Runs a stage unless its folder holds the result of the same inputs, settings and seed already. The record is the
 * last file to appear, so a folder with a record is complete; until then `work` may keep its state in `resume`.
 *
 * @param work writes the checkpoint into `options.output` and returns the metrics to record
 */
export async function runStage(
  name: string,
  options: StageOptions,
  inputs: Record<string, string>,
  settings: Record<string, unknown>,
  work: (resume: Resume) => Promise<Metrics[]>,
): Promise<StageRecord> {
  const { output, seed, onProgress } = options;
  const identity = { format_version: 1 as const, stage: name, inputs, settings, seed };
  const key = createHash('sha256').update(JSON.stringify(identity)).digest('hex');
  const existing = await readRecord(output, name);
  if (existing?.key === key) {
    onProgress?.({ status: 'skip', name });
    return existing;
  }
  await mkdir(output, { recursive: true });
  await rm(join(output, recordFile(name)), { force: true });
  const resume = await Resume.open(
    join(output, `${name}.resume.safetensors`),
    key,
    options.saveEvery ?? 30,
  );
  onProgress?.({ status: 'initiate', name });
  const started = Date.now();
  const metrics = await work(resume);
  const seconds = resume.secondsBefore + (Date.now() - started) / 1000;
  const record: StageRecord = { ...identity, key, metrics, seconds };
  await writeFileAtomic(
    join(output, recordFile(name)),
    `${JSON.stringify(record, undefined, 2)}\n`,
  );
  await resume.remove();
  onProgress?.({ status: 'done', name });
  return record;
}
