import { D2DMoEError } from '@d2dmoe/core';
import type { Architecture, FeedForwardNames, ParameterSpec } from './architecture.js';
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
  /** A file with another one is refused with `FORMAT_VERSION_UNSUPPORTED`. */
  format_version: 1;
  /** The thresholds to run with unless told otherwise, in [0, 1]. */
  tau: Thresholds;
  /** What can be asked of the model instead, once it was calibrated. */
  calibration?: StoredCalibration;
  /** The attention projections that were replaced by two layers, by the names of their sites; absent without any. */
  projections?: Record<string, ReplacedProjection>;
  /** The converted sites by name. */
  sites: Record<string, DynamicSite>;
}

/** One replaced projection: `down · relu(up · x + upBias) + downBias` (Szatkowski et al. 2024, section 3.5). */
export interface ReplacedProjection {
  /** Its number of hidden neurons. */
  hidden_width: number;
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
 * The names of a replaced projection's tensors in the checkpoint, as two PyTorch Linears: up [hidden, dIn] and its bias,
 * down [dOut, hidden] and its bias.
 */
export function replacementNames(siteName: string): Required<Omit<FeedForwardNames, 'gate'>> {
  const prefix = `d2dmoe.${siteName}.replacement`;
  return {
    layout: 'linear',
    up: `${prefix}.up.weight`,
    upBias: `${prefix}.up.bias`,
    down: `${prefix}.down.weight`,
    downBias: `${prefix}.down.bias`,
  };
}

/**
 * An architecture whose projections are replaced where config.json's `d2dmoe` object says so: their sites have a hidden
 * width, and their tensors are parameters. The original projections stay parameters as well.
 *
 * @throws D2DMoEError as {@link dynamicConfig}
 */
export function withReplacements(architecture: Architecture, config: ConfigReader): Architecture {
  const reader = dynamicReader(config);
  const replaced = reader && readProjections(reader, architecture.sites);
  if (replaced === undefined) return architecture;
  const hidden = ({ name }: Site) => replaced[name]?.hidden_width;
  return {
    ...architecture,
    sites: architecture.sites.map((site) => ({ ...site, hidden: hidden(site) ?? site.hidden })),
    parameters: [
      ...architecture.parameters,
      ...architecture.sites.flatMap((site) => replacementSpecs(site, hidden(site))),
    ],
  };
}

function replacementSpecs({ name, dIn, dOut }: Site, hidden: number | undefined): ParameterSpec[] {
  if (hidden === undefined) return [];
  const { up, upBias, down, downBias } = replacementNames(name);
  return [
    { name: up, shape: [hidden, dIn], init: 'normal' },
    { name: upBias, shape: [hidden], init: 'zeros' },
    { name: down, shape: [dOut, hidden], init: 'normal' },
    { name: downBias, shape: [dOut], init: 'zeros' },
  ];
}

/** Config.json's `d2dmoe` object, its version checked. */
function dynamicReader(config: ConfigReader): ConfigReader | undefined {
  const reader = config.object('d2dmoe');
  if (reader === undefined) return undefined;
  const version = reader.count('format_version');
  if (version > formatVersion) {
    throw new D2DMoEError(
      'FORMAT_VERSION_UNSUPPORTED',
      `config.json: d2dmoe.format_version is ${version}, but this version of d2dmoe reads ${formatVersion} only; a later one is needed.`,
    );
  }
  return reader;
}

function readProjections(
  dynamic: ConfigReader,
  sites: readonly Site[],
): Record<string, ReplacedProjection> | undefined {
  const reader = dynamic.object('projections');
  if (reader === undefined) return undefined;
  const names = Object.keys(dynamic.record('projections'));
  return Object.fromEntries(
    names.map((name) => {
      const site = sites.find((s) => s.name === name);
      if (site?.kind !== 'projection') {
        throw reader.invalid(name, 'absent: the model has no attention projection of that name');
      }
      const entry = reader.object(name);
      if (entry === undefined) throw reader.invalid(name, 'an object');
      return [name, { hidden_width: entry.count('hidden_width') }];
    }),
  );
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
  const reader = dynamicReader(new ConfigReader(model.config));
  if (reader === undefined) return undefined;
  const projections = readProjections(reader, model.sites);
  const tau = readThresholds(reader, 'tau', model.sites);
  const calibration = readCalibration(reader, model.sites);
  const names = Object.keys(reader.record('sites'));
  const sitesReader = reader.object('sites') as ConfigReader;
  const sites = names.map((name) => {
    const site = model.sites.find((s) => s.name === name);
    // A projection has neurons once it was replaced.
    if (site === undefined || site.hidden === 0) {
      throw sitesReader.invalid(
        name,
        'absent: the model has no FFN site and no replaced projection of that name',
      );
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
    ...(projections && { projections }),
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
