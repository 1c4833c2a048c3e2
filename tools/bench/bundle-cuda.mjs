// Writes the bench of the card, tfjs and the backend as one ES module, for a machine without npm:
//   node tools/bench/bundle-cuda.mjs OUT.mjs
//   D2DMOE_CUDA_MODULES=FOLDER_OF_PTX node OUT.mjs cuda --peers tools/bench/peers
// Only koffi has to be installed there; d2dmoe as well for forward passes, whose data it reads.
import { bundleBench } from './bundle.mjs';

const outfile = process.argv[2];
if (outfile === undefined) {
  console.error('usage: node tools/bench/bundle-cuda.mjs OUT.mjs');
  process.exit(2);
}
await bundleBench('src/cuda/main.ts', outfile, {
  external: ['koffi', 'd2dmoe'],
  plugins: [
    {
      // Images are not benched: without side effects the import goes where nothing of it is used.
      name: 'sharp stays outside',
      setup: (bundle) => {
        bundle.onResolve({ filter: /^sharp$/ }, ({ path }) => ({
          path,
          external: true,
          sideEffects: false,
        }));
      },
    },
  ],
});
