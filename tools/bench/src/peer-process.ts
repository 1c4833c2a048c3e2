import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Reply, Request } from './peer-worker.js';
import type { Peer, PeerName } from './peers/peer.js';
import type { Results, Workload } from './workload.js';

/** A peer in a process of its own, asked one thing at a time. */
export class PeerProcess {
  readonly #child: ChildProcess;
  readonly #name: string;

  constructor(name: PeerName, threads: number) {
    this.#name = name;
    const worker = fileURLToPath(new URL('./peer-worker.js', import.meta.url));
    this.#child = fork(worker, [name, String(threads)], {
      serialization: 'advanced',
      // tfjs greets on standard output, which is the table's.
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    });
  }

  /** Loads the peer's library and chooses its threads. */
  async start(): Promise<Peer['about']> {
    const reply = await this.#ask({ ask: 'start' });
    return (reply as { about: Peer['about'] }).about;
  }

  /** Makes a workload ready under a label, and runs it once. */
  async prepare(label: string, workload: Workload): Promise<Results> {
    const reply = await this.#ask({ ask: 'prepare', label, workload });
    return (reply as { results: Results }).results;
  }

  /** Times consecutive runs after one that is not timed, in milliseconds. */
  async time(label: string, runs: number): Promise<number[]> {
    const reply = await this.#ask({ ask: 'time', label, runs });
    return (reply as { milliseconds: number[] }).milliseconds;
  }

  end(): void {
    this.#child.kill('SIGKILL');
  }

  async #ask(request: Request): Promise<Reply> {
    const reply = await new Promise<Reply>((resolve, reject) => {
      const settle = () => {
        this.#child.off('message', onMessage);
        this.#child.off('exit', onExit);
        this.#child.off('error', onError);
      };
      const onMessage = (message: unknown) => {
        settle();
        resolve(message as Reply);
      };
      const onExit = (code: number | null, signal: string | null) => {
        settle();
        reject(new Error(`${this.#name} ended with ${signal ?? `exit code ${code}`}.`));
      };
      const onError = (error: Error) => {
        settle();
        reject(error);
      };
      this.#child.on('message', onMessage);
      this.#child.on('exit', onExit);
      this.#child.on('error', onError);
      this.#child.send(request, (error) => error && onError(error));
    });
    if ('error' in reply) throw new Error(`${this.#name}: ${reply.error}`);
    return reply;
  }
}
