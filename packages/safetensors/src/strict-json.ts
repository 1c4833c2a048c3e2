/** What {@link findJsonFault} found, and the keys that lead there from the top. */
export interface JsonFault {
  kind: 'duplicate' | 'nesting';
  path: string[];
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * Finds what JSON.parse hides or should not be asked to build: a key that an object holds twice (JSON.parse keeps the
 * last one silently), and brackets nested otherwise than expected (so that a hostile file cannot make millions of
 * nested objects). Text that is not JSON at all is left to JSON.parse.
 *
 * @param nesting The bracket that may open at each depth: `{{[` is an object of objects of arrays. Anything goes when
 *   it is left out.
 */
export function findJsonFault(text: string, nesting?: string): JsonFault | undefined {
  const open: { keys: Set<string>; key: string }[] = [];
  const path = () => open.map(({ key }) => key);
  for (let i = 0; i < text.length; i++) {
    const character = text[i] as string;
    if (character === '{' || character === '[') {
      if (nesting !== undefined && nesting[open.length] !== character) {
        return { kind: 'nesting', path: path() };
      }
      open.push({ keys: new Set(), key: '' });
    } else if (character === '}' || character === ']') {
      open.pop();
    } else if (character === '"') {
      const begin = i;
      i = endOfString(text, begin);
      const object = open.at(-1);
      if (object !== undefined && isFollowedByColon(text, i)) {
        const key = decodeString(text.slice(begin + 1, i));
        if (key === undefined) {
          return undefined;
        }
        object.key = key;
        if (object.keys.has(key)) {
          return { kind: 'duplicate', path: path() };
        }
        object.keys.add(key);
      }
    }
  }
  return undefined;
}

/** The index of the quote that ends the string which begins at `begin`, or the text's length. */
function endOfString(text: string, begin: number): number {
  let i = begin + 1;
  while (i < text.length && text.charCodeAt(i) !== QUOTE) {
    i += text.charCodeAt(i) === BACKSLASH ? 2 : 1;
  }
  return i;
}

function isFollowedByColon(text: string, index: number): boolean {
  let i = index + 1;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\r' || text[i] === '\t') {
    i++;
  }
  return text[i] === ':';
}

/** What a string literal says, without its quotes; undefined when JSON knows no such literal. */
function decodeString(literal: string): string | undefined {
  if (!literal.includes('\\')) {
    return literal;
  }
  try {
    return JSON.parse(`"${literal}"`) as string;
  } catch {
    return undefined;
  }
}

/** Whether a parsed JSON value is an object, neither null nor an array. */
export function isJsonObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
