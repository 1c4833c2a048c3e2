import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** What is left over for the garbage collector is not what a measurement of memory is about. */
export function collectGarbage(): void {
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}
