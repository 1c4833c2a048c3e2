// The bundle's entry: tfjs-core's own suite, ready to run on one backend.
import './jasmine-globals.mjs';
import './environment.mjs';
import '@tensorflow/tfjs-core/dist/tests';

export { runSuite } from './run-suite.mjs';
