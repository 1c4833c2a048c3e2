import { D2DMoEError } from '@d2dmoe/core';
import type { Architecture } from './architecture.js';
import { bert } from './bert.js';
import { ConfigReader, type ModelType } from './config.js';
import { withReplacements } from './dynamic-config.js';
import { gemma } from './gemma.js';
import { gpt2 } from './gpt2.js';
import { vit } from './vit.js';

const architectures: Record<ModelType, (config: ConfigReader) => Architecture> = {
  vit,
  bert,
  gpt2,
  gemma,
};

/**
 * The architecture that a config.json describes, every field that it needs checked.
 *
 * @throws D2DMoEError `MODEL_TYPE_UNSUPPORTED`, `CONFIG_INVALID`, `FORMAT_VERSION_UNSUPPORTED`
 */
export function readArchitecture(config: Record<string, unknown>): Architecture {
  const reader = new ConfigReader(config);
  const modelType = reader.string('model_type');
  if (!Object.hasOwn(architectures, modelType)) {
    throw new D2DMoEError(
      'MODEL_TYPE_UNSUPPORTED',
      `config.json: model_type "${modelType}" is not supported; supported are ${Object.keys(architectures).join(', ')}.`,
    );
  }
  return withReplacements(architectures[modelType as ModelType](reader), reader);
}
