import type { ExpertsCall } from './call.js';
import { inputArguments, type LaunchRows, shapeArguments } from './launch-rows.js';

/** The one parameter of kernels of some dozen rows, experts_dozens_args of experts-dozens.cuh: its types. */
export const DOZENS_STRUCT = `p ${'+p '.repeat(12)}${'+i '.repeat(16)}`;

/** What of it is not the call's; 0 where a kernel has no use for it. */
export interface DozensFields {
  readonly hidden?: number;
  readonly partials: number;
  readonly counters?: number;
  readonly skip?: boolean;
  readonly capacity?: number;
  readonly across?: number;
  readonly rowGroups?: number;
  readonly steps?: number;
  readonly slots?: number;
  readonly splits: number;
  readonly groups?: number;
}

/** Its values. */
export function dozensStruct(call: ExpertsCall, at: LaunchRows, fields: DozensFields): number[] {
  const { hidden = 0, partials, counters = 0, skip = false, splits, groups = 0 } = fields;
  const { capacity = 0, across = 0, rowGroups = 0, steps = 0, slots = 0 } = fields;
  return [
    ...inputArguments(call, at),
    at.out,
    hidden,
    partials,
    counters,
    ...shapeArguments(call, at),
    skip ? 1 : 0,
    capacity,
    across,
    rowGroups,
    steps,
    slots,
    splits,
    groups,
  ];
}
