// tfjs with every op and gradient, the backend under test alone, and the suite told to use it.
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops';
import '@tensorflow/tfjs-core/dist/register_all_gradients';
import { setTestEnvs } from '@tensorflow/tfjs-core/dist/jasmine_util';
import { name } from 'backend-under-test';

for (const other of tf.engine().backendNames()) {
  if (other !== name) tf.removeBackend(other);
}
if (!(await tf.setBackend(name))) {
  console.error(`The backend ${name} did not begin; the lines above say why.`);
  process.exit(2);
}
setTestEnvs([{ name, backendName: name, isDataSync: true }]);

export { name };
