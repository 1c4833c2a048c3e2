import { type ExpertsCall, pitchOf, WEIGHT_BYTES } from './call.js';

/** Rows of one launch: those of a warp's matrix instruction. */
export const FEW_ROWS = 16;
export const FEW_THREADS = 512;
const WARPS = FEW_THREADS / 32;

/** A router as the few-rows kernels read it: its width, 0 for none. */
export interface FewShape
  extends Pick<ExpertsCall, 'rows' | 'dIn' | 'dOut' | 'experts' | 'hidden' | 'storage'> {
  readonly routerWidth: number;
}

/** How a launch of experts-few.cu is cut up. */
export interface FewPlan {
  readonly blocks: number;
  /** Whether hidden activations go through memory, and down is cut by columns too. */
  readonly exchange: boolean;
  /** Column groups of down. */
  readonly groups: number;
  /** Runs of neurons of down. */
  readonly splits: number;
  /** Most neurons of a block, a multiple of 16. */
  readonly capacity: number;
  /** Dynamic shared memory. */
  readonly sharedBytes: number;
  /** Bytes of the blocks' shares of the output. */
  readonly partialBytes: number;
  /** Bytes of hidden activations in memory. */
  readonly hiddenBytes: number;
}

const upTo = (multiple: number, value: number): number => Math.ceil(value / multiple) * multiple;
/** Bytes from row to row in shared memory: an odd number of 64-byte pieces. */
const pitch = (bytes: number): number => ((bytes / 64) % 2 === 0 ? bytes + 64 : bytes);

/**
 * Cuts a launch up for a card. With several rows every block's share of the output would be as large as what it reads:
 * from `EXCHANGE_ROWS` on hidden activations are exchanged instead.
 */
export function planFew(shape: FewShape, multiprocessors: number): FewPlan {
  const { rows, dIn, dOut, experts, hidden, storage, routerWidth } = shape;
  // x and the hidden activations are float32 beside float32 weights, 16 bits else.
  const bytes = storage === 'float32' ? 4 : 2;
  const unit = bytes === 4 ? 32 : 64;
  const units = Math.ceil(dOut / unit);
  const blocks = multiprocessors;
  const groups = Math.min(EXCHANGE_GROUPS, units, blocks);
  const exchange = rows >= EXCHANGE_ROWS;
  const splits = Math.floor(blocks / groups);
  const perBlock = upTo(16, Math.ceil(hidden / blocks));
  const perSplit = upTo(16, Math.ceil(hidden / splits));
  const capacity = exchange ? Math.max(perBlock, perSplit) : perBlock;

  const chunk = 16 / WEIGHT_BYTES[storage];
  const steps = Math.ceil(pitchOf(dIn, storage) / (4 * chunk));
  const words = Math.ceil(experts / 32);
  const parts = WARPS * (rows > 8 ? 16 : 8) * unit * 4;
  const x = rows * pitch(steps * 4 * chunk * bytes);
  const activations = rows * (upTo(128, capacity * bytes) + (bytes === 2 ? 32 : 64));
  const lists = ((exchange ? 3 : 2) * capacity + rows * words + 2 * words + 1 + capacity + 2) * 4;
  const router = rows * pitch(upTo(64, routerWidth * bytes));
  return {
    blocks,
    exchange,
    groups,
    splits,
    capacity,
    sharedBytes: parts + x + Math.max(activations + lists, router),
    partialBytes: (exchange ? splits : blocks) * rows * units * unit * 4,
    hiddenBytes: exchange ? rows * upTo(16, hidden) * bytes : 0,
  };
}

/** Whether every block can afford to work a router's norms out for itself. */
export function canRoute({ rows, experts, routerWidth, storage }: FewShape): boolean {
  const unit = storage === 'float32' ? 32 : 64;
  return (
    rows * experts * 4 <= WARPS * (rows > 8 ? 16 : 8) * unit * 4 && experts * routerWidth <= 65536
  );
}

const EXCHANGE_ROWS = 4;
const EXCHANGE_GROUPS = 8;
