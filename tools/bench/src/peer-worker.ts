// A peer's process: `peer-worker.js NAME THREADS`, answering the parent's requests one by one.
import type { Peer, PeerName, Prepared } from './peers/peer.js';
import type { Results, Workload } from './workload.js';

/** What a parent may ask for. */
export type Request =
  | { ask: 'start' }
  | { ask: 'prepare'; workload: Workload; label: string }
  | { ask: 'time'; label: string; runs: number };

/** What it is told. */
export type Reply =
  | { about: Peer['about'] }
  | { results: Results }
  | { milliseconds: number[] }
  | { error: string };

/** Each loads its own libraries only. */
const peers: Record<PeerName, (threads: number) => Promise<Peer>> = {
  d2dmoe: async (threads) => (await import('./peers/d2dmoe.js')).d2dmoe(threads),
  'd2dmoe-simd': async () => (await import('./peers/d2dmoe.js')).d2dmoeSimd(),
  'tfjs-wasm': async () => (await import('./peers/tfjs-wasm.js')).tfjsWasm(),
  'onnxruntime-node': async (threads) =>
    (await import('./peers/onnxruntime.js')).onnxruntime('onnxruntime-node', threads),
  'onnxruntime-web': async (threads) =>
    (await import('./peers/onnxruntime.js')).onnxruntime('onnxruntime-web', threads),
};

const [, , name, threads] = process.argv;
let peer: Peer;
const prepared = new Map<string, Prepared>();

async function answer(request: Request): Promise<Reply> {
  if (request.ask === 'start') {
    peer = await peers[name as PeerName](Number(threads));
    return { about: peer.about };
  }
  if (request.ask === 'prepare') {
    const work = await peer.prepare(request.workload);
    prepared.set(request.label, work);
    return { results: await work.results() };
  }
  const work = prepared.get(request.label) as Prepared;
  const milliseconds: number[] = [];
  // The first run finds the caches full of what other processes did.
  await work.run();
  for (let i = 0; i < request.runs; i++) {
    const started = performance.now();
    await work.run();
    milliseconds.push(performance.now() - started);
  }
  return { milliseconds };
}

process.on('message', (request: Request) => {
  void answer(request)
    .catch((error: unknown): Reply => ({ error: String(error) }))
    .then((reply) => process.send?.(reply));
});
