/// <reference path="./modules.d.ts" />
// Jasmine's functions as globals: the suite's files expect `describe`, `it`, `expect` and `jasmine` to be there.
import jasmineRequire from 'jasmine-core/lib/jasmine-core/jasmine.js';

/** This run's Jasmine. */
export const jasmine = jasmineRequire.core(jasmineRequire);
Object.assign(globalThis, jasmineRequire.interface(jasmine, jasmine.getEnv()), { jasmine });
