/**
 * The points that no other point beats in both cost and loss, cheapest last: along them the cost falls and the loss
 * rises.
 */
export function frontier<Point extends { cost: number; loss: number }>(
  points: readonly Point[],
): Point[] {
  const kept: Point[] = [];
  for (const point of points.toSorted((a, b) => a.cost - b.cost || a.loss - b.loss)) {
    const cheaper = kept.at(-1);
    if (cheaper === undefined || point.loss < cheaper.loss) kept.push(point);
  }
  return kept.reverse();
}
