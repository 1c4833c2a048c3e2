import type { ConfigReader } from './config.js';
import type { Site } from './site.js';

/** Thresholds of a converted model: one for all sites, or one for each by its name. */
export type Thresholds = number | Readonly<Record<string, number>>;

/** Thresholds and what they gave on the calibration data. */
export interface StoredPoint {
  /** One threshold for all sites, or one for each by its name. */
  tau: Thresholds;
  /** On the calibration data, in the unit that {@link StoredCalibration} says. */
  score: number;
  /** Total cost relative to the dense model. */
  cost: number;
}

/** What a calibration measured, kept in config.json so that any budget can be looked up when the model is run. */
export interface StoredCalibration {
  /** What the scores are. */
  score: 'accuracy' | 'loss';
  /** The dense model's score on the calibration data. */
  dense_score: number;
  /** From all experts to few, cheapest last. */
  path: StoredPoint[];
  /** The points that were asked for, by name. */
  operating_points: Record<string, StoredPoint>;
}

/**
 * A field that holds one threshold in [0, 1], or one for each of some sites.
 *
 * @throws D2DMoEError `CONFIG_INVALID`
 */
export function readThresholds(
  reader: ConfigReader,
  field: string,
  sites: readonly Site[],
): Thresholds {
  const isThreshold = (value: number) => value >= 0 && value <= 1;
  if (reader.isNumber(field) || !reader.has(field)) {
    const value = reader.number(field);
    if (!isThreshold(value)) throw reader.invalid(field, 'a number from 0 to 1');
    return value;
  }
  const bySite = reader.object(field) as ConfigReader;
  const names = Object.keys(reader.record(field));
  return Object.fromEntries(
    names.map((name) => {
      if (!sites.some((site) => site.name === name)) {
        throw bySite.invalid(name, 'absent: the model has no site of that name');
      }
      const value = bySite.number(name);
      if (!isThreshold(value)) throw bySite.invalid(name, 'a number from 0 to 1');
      return [name, value];
    }),
  );
}

/**
 * The `calibration` of a config.json's `d2dmoe` object; undefined where it has none.
 *
 * @throws D2DMoEError `CONFIG_INVALID`
 */
export function readCalibration(
  dynamic: ConfigReader,
  sites: readonly Site[],
): StoredCalibration | undefined {
  const reader = dynamic.object('calibration');
  if (reader === undefined) return undefined;
  const score = reader.string('score');
  if (score !== 'accuracy' && score !== 'loss') {
    throw reader.invalid('score', '"accuracy" or "loss"');
  }
  const point = (entry: ConfigReader): StoredPoint => ({
    tau: readThresholds(entry, 'tau', sites),
    score: entry.number('score'),
    cost: entry.positive('cost'),
  });
  const named = reader.object('operating_points') as ConfigReader;
  const names = Object.keys(reader.record('operating_points'));
  return {
    score,
    dense_score: reader.number('dense_score'),
    path: reader.objects('path').map(point),
    operating_points: Object.fromEntries(
      names.map((name) => {
        const entry = named.object(name);
        if (entry === undefined) throw named.invalid(name, 'an object');
        return [name, point(entry)];
      }),
    ),
  };
}
