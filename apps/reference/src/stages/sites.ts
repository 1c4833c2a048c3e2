import { D2DMoEError } from '@d2dmoe/core';
import {
  type DynamicConfig,
  type DynamicSite,
  dynamicConfig,
  type Model,
  readArchitecture,
  type Site,
} from '@d2dmoe/models';
import { readConfig } from '@d2dmoe/models/node';

/** A site of a checkpoint that has been split, and how. */
export interface SplitSite {
  site: Site;
  entry: DynamicSite;
}

/**
 * The sites of a checkpoint folder that have experts, by its config.json alone.
 *
 * @throws D2DMoEError `NOT_SPLIT` where there are none
 */
export async function splitSites(directory: string): Promise<SplitSite[]> {
  const sites = await dynamicSites(directory);
  if (sites.length > 0) return sites;
  throw new D2DMoEError(
    'NOT_SPLIT',
    `The checkpoint ${directory} has no experts: run d2dmoe split on it before routers are trained.`,
  );
}

/**
 * The sites of a checkpoint folder that have experts and a router, by its config.json alone.
 *
 * @throws D2DMoEError `NOT_CONVERTED` where there are none
 */
export async function routedSites(directory: string): Promise<SplitSite[]> {
  const sites = await dynamicSites(directory);
  const routed = sites.filter(({ entry }) => entry.router_width !== undefined);
  if (routed.length > 0) return routed;
  throw new D2DMoEError(
    'NOT_CONVERTED',
    sites.length > 0
      ? `The checkpoint ${directory} has experts but no routers: run d2dmoe route on it first.`
      : `The checkpoint ${directory} is dense: run d2dmoe convert on it first.`,
  );
}

/** The entry of a model's replaced projections in config.json's `d2dmoe` object, for a stage that writes it anew. */
export function projectionsOf(model: Model): Pick<DynamicConfig, 'projections'> {
  const projections = dynamicConfig(model)?.projections;
  return projections ? { projections } : {};
}

async function dynamicSites(directory: string): Promise<SplitSite[]> {
  const config = await readConfig(directory);
  const { sites } = readArchitecture(config);
  const entries = dynamicConfig({ config, sites })?.sites ?? {};
  return sites.flatMap((site) => {
    const entry = entries[site.name];
    return entry ? [{ site, entry }] : [];
  });
}
