// Turns the preprocessed text of a kernel file into C++ for g++: CUDA's storage classes become C++'s, and each kernel
// is entered into the library's table.

const endOfPrelude = 'typedef int emulator_end_of_prelude;';
const globalMark = '__attribute__((emulated_global))';
const sharedMark = '__attribute__((emulated_shared))';
// Blanks, and the preprocessor's line marks, which may come anywhere.
const gap = '(?:\\s|^#[^\\n]*\\n)+';
const optionalGap = gap.replace(/\+$/, '*');

const entry = new RegExp(
  `extern${optionalGap}"C"${optionalGap}${escape(globalMark)}${optionalGap}void${gap}(\\w+)`,
  'gm',
);
const dynamicShared = new RegExp(
  `extern${gap}${escape(sharedMark)}([^;]*?)(\\w+)\\s*\\[\\s*\\]\\s*;`,
  'gm',
);

/**
 * @param {string} text What `g++ -E` made of a kernel file, with include/cuda-emulated.h before it.
 * @param {string} module The kernel file's base name.
 * @returns {string}
 */
export function translate(text, module) {
  const at = text.indexOf(endOfPrelude);
  const [prelude, body] = [text.slice(0, at), text.slice(at + endOfPrelude.length)];
  const names = new Set([...body.matchAll(entry)].map((match) => match[1]));
  const code = body
    .replace(dynamicShared, (_, type, name) => {
      const element = type.replace(/__attribute__\(\(aligned\([^)]*\)\)\)|alignas\([^)]*\)/g, '');
      return `${element}* const ${name} = reinterpret_cast<${element}*>(emulator::sharedMemory);`;
    })
    .replaceAll(sharedMark, 'static')
    .replaceAll(globalMark, '');
  const table = [...names].map(
    (name) =>
      `emulator::Registration entry_${name}(emulator::Entry<&${name}>::kernel("${name}", "${module}"));`,
  );
  // Helpers of different files may have the same names.
  return `${prelude}\nnamespace {\n${code}\n${table.join('\n')}\n}\n`;
}

/**
 * The names of the kernels that a translated text enters.
 *
 * @param {string} text
 * @returns {string[]}
 */
export function findKernels(text) {
  return [...text.matchAll(/^emulator::Registration entry_(\w+)\(/gm)].map(
    (match) => match[1] ?? '',
  );
}

/** @param {string} text */
function escape(text) {
  return text.replace(/[()]/g, '\\$&');
}
