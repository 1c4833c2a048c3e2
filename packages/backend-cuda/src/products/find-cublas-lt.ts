import { readdirSync } from 'node:fs';
import { delimiter, join, resolve } from 'node:path';

const NAMES =
  process.platform === 'win32'
    ? ['cublasLt64_13.dll', 'cublasLt64_12.dll']
    : ['libcublasLt.so.13', 'libcublasLt.so.12'];

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // most of the folders asked for are not there
  }
}

/** Folders that match a path in which single names may begin with or be a `*`, as in `/usr/local/cuda*`. */
function matching(root: string, names: readonly string[]): string[] {
  const [name, ...rest] = names;
  if (name === undefined) return [root];
  if (!name.endsWith('*')) return matching(join(root, name), rest);
  const prefix = name.slice(0, -1);
  return entries(root)
    .filter((entry) => entry.startsWith(prefix))
    .sort()
    .reverse()
    .flatMap((entry) => matching(join(root, entry), rest));
}

/** Where pip's packages of CUDA put their libraries, for the Python whose binary lies in `bin`. */
function inPython(bin: string): string[] {
  return ['site-packages', 'dist-packages'].flatMap((packages) =>
    matching(resolve(bin, '..'), ['lib', 'python3*', packages, 'nvidia', '*', 'lib']),
  );
}

/**
 * File names under which cuBLASLt may be opened, best first: D2DMOE_LIBCUBLASLT, then what the dynamic linker finds,
 * the toolkit's folders, and the packages of the Pythons in PATH (torch brings it there).
 */
export function* cublasLtCandidates(env: NodeJS.ProcessEnv = process.env): Generator<string> {
  const named = env['D2DMOE_LIBCUBLASLT'];
  if (named !== undefined && named !== '') yield named;
  yield* NAMES;
  if (process.platform === 'win32') return;
  const toolkits = [
    ...matching('/usr/local', ['cuda*', 'lib64']),
    ...matching('/opt', ['cuda*', 'lib64']),
  ];
  for (const folder of toolkits) yield* filesIn(folder);
  for (const bin of new Set((env['PATH'] ?? '').split(delimiter))) {
    if (entries(bin).includes('python3'))
      for (const folder of inPython(bin)) yield* filesIn(folder);
  }
}

function filesIn(folder: string): string[] {
  const found = entries(folder);
  return NAMES.filter((name) => found.includes(name)).map((name) => join(folder, name));
}
