import * as tf from '@tensorflow/tfjs-core';
import { setupTestFilters } from '@tensorflow/tfjs-core/dist/jasmine_util';
import { name as backend } from './environment.mjs';
import { jasmine } from './jasmine-globals.mjs';

/** Backends that exist outside of the suite: none of them may run a kernel unless it is the one under test. */
const realBackends = ['cpu', 'cuda', 'node', 'tensorflow', 'wasm', 'webgl', 'webgpu'];

/**
 * @typedef {object} SpecResult
 * @property {string} name
 * @property {'passed' | 'failed' | 'pending'} status
 * @property {string[]} messages Why it failed, with the place in the suite's sources.
 * @property {number} milliseconds
 */

/**
 * @typedef {object} SuiteResult
 * @property {string} backend
 * @property {SpecResult[]} specs Those that the filter let through.
 * @property {string[]} excluded Names of the specs that `excludes` kept from running.
 * @property {Record<string, number>} kernelRuns By backend.
 * @property {string[]} strays Names of specs that another real backend took part in, with what it did.
 */

/**
 * Runs the specs whose full names match `filter`.
 *
 * @param {{ filter: RegExp, excludes: (name: string) => boolean }} options
 * @returns {Promise<SuiteResult>}
 */
export async function runSuite({ filter, excludes }) {
  const jasmineEnv = jasmine.getEnv();
  /** @type {SpecResult[]} */
  const specs = [];
  /** @type {string[]} */
  const excluded = [];
  /** @type {Record<string, number>} */
  const kernelRuns = {};
  /** @type {Set<string>} */
  const strays = new Set();
  let current = '';

  watchKernels((backendName, kernelName) => {
    kernelRuns[backendName] = (kernelRuns[backendName] ?? 0) + 1;
    if (backendName !== backend && realBackends.includes(backendName)) {
      strays.add(`${current}: ${kernelName} ran on ${backendName}`);
    }
  });
  jasmineEnv.configure({ random: false });
  setupTestFilters([], (name) => {
    if (!filter.test(name)) return false;
    if (!excludes(name)) return true;
    excluded.push(name);
    return false;
  });
  jasmineEnv.beforeEach(() => {
    // Suites that are made for a backend carry its name; others test tfjs's own machinery on backends of their own. Where
    // none is active yet, the first kernel tells.
    const active = tf.engine().backendName;
    if (current.includes(` ${backend} {`) && active !== backend && active !== null) {
      strays.add(`${current}: began on ${active}`);
    }
  });
  // The suite's own specs print profiles and warnings.
  const { log, warn } = console;
  console.log = console.warn = () => {};
  await new Promise((resolve) => {
    jasmineEnv.addReporter({
      specStarted: (spec) => {
        current = spec.fullName;
      },
      specDone: (spec) => {
        if (spec.status === 'excluded') return;
        const messages = spec.failedExpectations.map(
          ({ message, stack }) => `${message}${placeOf(stack)}`,
        );
        const milliseconds = spec.duration ?? 0;
        specs.push({ name: spec.fullName, status: spec.status, messages, milliseconds });
      },
      suiteDone: (suite) => {
        // What fails in beforeAll or afterAll belongs to no spec.
        for (const { message, stack } of suite.failedExpectations) {
          const messages = [`${message}${placeOf(stack)}`];
          const name = `${suite.fullName} (before or after its specs)`;
          specs.push({ name, status: 'failed', messages, milliseconds: 0 });
        }
      },
      jasmineDone: resolve,
    });
    void jasmineEnv.execute();
  });
  Object.assign(console, { log, warn });
  return { backend, specs, excluded, kernelRuns, strays: [...strays] };
}

/**
 * Tells `seen` of every kernel that tfjs runs.
 *
 * @param {(backendName: string, kernelName: string) => void} seen
 */
function watchKernels(seen) {
  const engine = tf.engine();
  const runKernel = engine.runKernel.bind(engine);
  engine.runKernel = (kernelName, inputs, attrs) => {
    /** @type {ReturnType<typeof runKernel<any>>} */
    const result = runKernel(kernelName, inputs, attrs);
    seen(engine.backendName, kernelName);
    return result;
  };
}

/**
 * The first line of a stack trace that lies in the suite.
 *
 * @param {string | undefined} stack
 */
function placeOf(stack) {
  const line = stack?.split('\n').find((text) => /_test\.js|src\/.*\.ts/.test(text));
  const place = line === undefined ? undefined : /([\w./-]+\.(?:js|ts):\d+)/.exec(line)?.[1];
  return place === undefined ? '' : ` (${place})`;
}
