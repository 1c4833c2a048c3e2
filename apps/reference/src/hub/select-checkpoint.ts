import { D2DMoEError } from '@d2dmoe/core';
import { describeRepo, type Repo } from './repo.js';
import type { RepoFiles, Select } from './repo-files.js';

const weights = 'model.safetensors';
const index = 'model.safetensors.index.json';
/** What is read beside config and weights, as far as it is there. */
const sideFiles = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'preprocessor_config.json',
  'generation_config.json',
];

/**
 * Chooses the files of a checkpoint: config.json, model.safetensors or its index with the shards that it names, and
 * the small files for tokens, images and generation. Weights in other formats are left where they are.
 *
 * @returns a function that throws D2DMoEError `HUB_FILES_MISSING`
 */
export function selectCheckpoint(repo: Repo): Select {
  return async (files) => {
    const chosen = [...(await weightFiles(files, repo)), 'config.json'];
    const missing = chosen.filter((path) => !files.paths.includes(path));
    if (missing.length > 0) {
      throw new D2DMoEError(
        'HUB_FILES_MISSING',
        `There is no ${missing.join(' and no ')} in ${describeRepo(repo)}; a checkpoint has config.json, and ${weights} or ${index} with its shards.`,
      );
    }
    const beside = sideFiles.filter((path) => files.paths.includes(path));
    // config.json comes last, as in the checkpoints that are written here.
    return { paths: [...beside, ...chosen], folder: '' };
  };
}

async function weightFiles(files: RepoFiles, repo: Repo): Promise<string[]> {
  if (files.paths.includes(weights) || !files.paths.includes(index)) return [weights];
  try {
    const { weight_map: map } = JSON.parse(await files.read(index)) as {
      weight_map: Record<string, string>;
    };
    return [...new Set(Object.values(map)), index];
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
    throw new D2DMoEError(
      'HUB_FILES_MISSING',
      `${index} of ${describeRepo(repo)} is not an index of shards, an object with a weight_map.`,
      { cause: error },
    );
  }
}
