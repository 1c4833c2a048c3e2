/** What running with some thresholds gave. */
export interface Sensitivity {
  /** The task's mean cross-entropy in nats, also of classifiers: accuracy is too coarse to rank small changes. */
  loss: number;
  /** Total cost relative to the dense model. */
  cost: number;
}

/** One site's threshold, raised from one value of the grid to a later one. */
interface Raise {
  site: string;
  level: number;
  saved: number;
  /** Loss gained per cost saved. */
  slope: number;
}

/**
 * A path of thresholds per site from all experts to few, found greedily: the next step raises the threshold that saves
 * the most cost for the least loss. Each site is measured alone, the others running all experts, and the effects are
 * taken to add up; what the steps really cost and score is for the caller to measure.
 *
 * @param sites names of the converted sites
 * @param grid rising thresholds, the first one 0
 * @param measure runs the calibration data with thresholds by site; sites left out run all experts
 * @param points about how many steps of the path to return
 * @returns thresholds by site, cheapest last; the first is 0 everywhere
 */
export async function layerPath(
  sites: readonly string[],
  grid: readonly number[],
  measure: (thresholds: Readonly<Record<string, number>>) => Promise<Sensitivity>,
  points: number,
): Promise<Record<string, number>[]> {
  const base = await measure({});
  const raises: Raise[] = [];
  for (const site of sites) {
    const measured = [base];
    for (const tau of grid.slice(1)) measured.push(await measure({ [site]: tau }));
    raises.push(...hull(site, measured));
  }
  // A hull's slopes rise, so that sorting all of them keeps each site's own order.
  raises.sort((a, b) => a.slope - b.slope);
  const total = raises.reduce((sum, { saved }) => sum + saved, 0);
  const thresholds = Object.fromEntries(sites.map((site) => [site, 0]));
  const path = [{ ...thresholds }];
  let saved = 0;
  for (const [index, raise] of raises.entries()) {
    thresholds[raise.site] = grid[raise.level] as number;
    saved += raise.saved;
    const due = saved >= (path.length * total) / points;
    if (due || index === raises.length - 1) path.push({ ...thresholds });
  }
  return path;
}

/** The lower convex hull of a site's (cost saved, loss gained) points: the steps worth taking, slopes rising. */
function hull(site: string, measured: readonly Sensitivity[]): Raise[] {
  const [base] = measured as [Sensitivity];
  const raises: Raise[] = [];
  let level = 0;
  let at = base;
  while (level < measured.length - 1) {
    let best: Raise | undefined;
    for (let next = level + 1; next < measured.length; next++) {
      const { cost, loss } = measured[next] as Sensitivity;
      const saved = at.cost - cost;
      if (saved <= 0) continue;
      const slope = (loss - at.loss) / saved;
      if (best === undefined || slope <= best.slope) best = { site, level: next, saved, slope };
    }
    if (best === undefined) break;
    raises.push(best);
    level = best.level;
    at = measured[level] as Sensitivity;
  }
  return raises;
}
