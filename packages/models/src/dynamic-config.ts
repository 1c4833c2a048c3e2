import { D2DMoEError } from '@d2dmoe/core';
import type { ParameterSpec } from './architecture.js';
import { ConfigReader } from './config.js';
import type { Site } from './site.js';
import {
  readCalibration,
  readThresholds,
  type StoredCalibration,
  type Thresholds,
} from './stored-calibration.js';

/** The format of the `d2dmoe` object that this version reads and writes. */
const formatVersion = 1;

/** The `d2dmoe` object in a converted model's config.json. */
export interface DynamicConfig {
  format_version: 1;
  /** The thresholds to run with unless told otherwise, in [0, 1]. */
  tau: Thresholds;
  /** What can be asked of the model instead, once it was calibrated. */
  calibration?: StoredCalibration;
  /** The converted sites by name. */
  sites: Record<string, DynamicSite>;
}

/** One converted site. */
export interface DynamicSite {
  /** Neurons per expert; divides the site's hidden width. */
  expert_size: number;
  /** Hidden width of the router; absent while the site is split but has no router yet. */
  router_width?: number;
}

/** The names of a site's router tensors in the checkpoint: hidden [width, dIn] and output [experts, width]. */
export function routerNames(siteName: string): { hidden: string; output: string } {
  const prefix = `d2dmoe.${siteName}.router`;
  return { hidden: `${prefix}.hidden.weight`, output: `${prefix}.output.weight` };
}

/**
 * The `d2dmoe` object of a model's config.json, checked against its sites; undefined for a dense model.
 *
 * @throws D2DMoEError `CONFIG_INVALID`, or `FORMAT_VERSION_UNSUPPORTED` if a later version wrote it
 */
export function dynamicConfig(model: {
  config: Record<string, unknown>;
  sites: readonly Site[];
}): DynamicConfig | undefined {
  const reader = new ConfigReader(model.config).object('d2dmoe');
  if (reader === undefined) return undefined;
  const version = reader.count('format_version');
  if (version > formatVersion) {
    throw new D2DMoEError(
      'FORMAT_VERSION_UNSUPPORTED',
      `config.json: d2dmoe.format_version is ${version}, but this version of d2dmoe reads ${formatVersion} only; a later one is needed.`,
    );
  }
  const tau = readThresholds(reader, 'tau', model.sites);
  const calibration = readCalibration(reader, model.sites);
  const names = Object.keys(reader.record('sites'));
  const sitesReader = reader.object('sites') as ConfigReader;
  const sites = names.map((name) => {
    const site = model.sites.find((s) => s.name === name);
    if (site?.kind !== 'feedForward') {
      throw sitesReader.invalid(name, 'absent: the model has no FFN site of that name');
    }
    const siteReader = sitesReader.object(name);
    if (siteReader === undefined) throw sitesReader.invalid(name, 'an object');
    const expertSize = siteReader.count('expert_size');
    if (site.hidden % expertSize !== 0) {
      throw siteReader.invalid('expert_size', `a divisor of the hidden width ${site.hidden}`);
    }
    const entry: DynamicSite = { expert_size: expertSize };
    if (siteReader.has('router_width')) entry.router_width = siteReader.count('router_width');
    return [name, entry] as const;
  });
  return {
    format_version: formatVersion,
    tau,
    ...(calibration && { calibration }),
    sites: Object.fromEntries(sites),
  };
}

/** The router tensors that a config.json asks for. */
export function routerSpecs(
  config: Record<string, unknown>,
  sites: readonly Site[],
): ParameterSpec[] {
  const dynamic = dynamicConfig({ config, sites });
  return sites.flatMap((site) => {
    const entry = dynamic?.sites[site.name];
    if (entry?.router_width === undefined) return [];
    const names = routerNames(site.name);
    const width = entry.router_width;
    return [
      { name: names.hidden, shape: [width, site.dIn], init: 'normal' as const },
      {
        name: names.output,
        shape: [site.hidden / entry.expert_size, width],
        init: 'normal' as const,
      },
    ];
  });
}
