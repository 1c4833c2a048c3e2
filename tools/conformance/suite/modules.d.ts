// Modules of the bundle that have no types, or that only the bundler can find.

declare module 'backend-under-test' {
  /** The name that the backend is registered under. */
  export const name: string;
}

declare module 'jasmine-core/lib/jasmine-core/jasmine.js' {
  interface Expectation {
    message: string;
    stack?: string;
  }
  interface Spec {
    fullName: string;
    status: 'passed' | 'failed' | 'pending' | 'excluded';
    duration: number | null;
    failedExpectations: Expectation[];
  }
  interface Reporter {
    specStarted?(spec: Spec): void;
    specDone?(spec: Spec): void;
    suiteDone?(suite: { fullName: string; failedExpectations: Expectation[] }): void;
    jasmineDone?(result: object): void;
  }
  export interface JasmineEnv {
    configure(settings: { random: boolean }): void;
    beforeEach(body: () => void): void;
    addReporter(reporter: Reporter): void;
    execute(): Promise<object>;
  }
  export interface Jasmine {
    getEnv(): JasmineEnv;
  }
  const jasmineRequire: {
    core(self: object): Jasmine;
    interface(jasmine: Jasmine, env: JasmineEnv): object;
  };
  export default jasmineRequire;
}

declare module '@tensorflow/tfjs-core/dist/jasmine_util' {
  export function setTestEnvs(
    envs: { name: string; backendName: string; isDataSync: boolean }[],
  ): void;
  export function setupTestFilters(filters: never[], include: (name: string) => boolean): void;
}

declare module '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops' {}
declare module '@tensorflow/tfjs-core/dist/register_all_gradients' {}
declare module '@tensorflow/tfjs-core/dist/tests' {}
