import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, realpath, rm } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { D2DMoEError, type ProgressCallback } from '@d2dmoe/core';
import { checkCheckpoint } from '@d2dmoe/models/node';
import { makeFolder, writeFileAtomic } from '@d2dmoe/safetensors/node';
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

/**
 * sha256 of a checkpoint folder's config and weights, once all that can be wrong with config and headers is ruled out.
 *
 * @throws D2DMoEError as loadModel
 */
export async function hashCheckpoint(directory: string): Promise<string> {
  await checkCheckpoint(directory);
  const hash = createHash('sha256');
  const parts = (await readdir(directory)).filter(
    (name) => name === 'config.json' || /^model.*\.safetensors$/.test(name),
  );
  for (const name of parts.sort()) {
    hash.update(name);
    for await (const chunk of createReadStream(join(directory, name))) hash.update(chunk as Buffer);
  }
  return hash.digest('hex');
}

/**
 * @throws D2DMoEError `OUTPUT_IS_INPUT` where the checkpoint that is read would be written over
 */
export async function requireOwnOutput(input: string, output: string): Promise<void> {
  const real = (path: string) => realpath(path).catch(() => resolve(path));
  if ((await real(input)) !== (await real(output))) return;
  throw new D2DMoEError(
    'OUTPUT_IS_INPUT',
    `The output folder ${output} is the checkpoint itself, which would be lost; choose another one.`,
  );
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
  const resumeFile = join(output, `${name}.resume.safetensors`);
  const existing = await readRecord(output, name);
  if (existing?.key === key) {
    // A run that was killed right after its record appeared has left it.
    await Resume.remove(resumeFile);
    onProgress?.({ status: 'skip', name });
    return existing;
  }
  await makeFolder(output);
  await rm(join(output, recordFile(name)), { force: true });
  const resume = await Resume.open(resumeFile, key, options.saveEvery ?? 30);
  onProgress?.({ status: 'initiate', name, ...(resume.steps > 0 && { step: resume.steps }) });
  const started = Date.now();
  const metrics = await work(resume);
  const seconds = resume.secondsBefore + (Date.now() - started) / 1000;
  const record: StageRecord = { ...identity, key, metrics, seconds };
  await writeFileAtomic(
    join(output, recordFile(name)),
    `${JSON.stringify(record, undefined, 2)}\n`,
  );
  await Resume.remove(resumeFile);
  onProgress?.({ status: 'done', name });
  return record;
}
