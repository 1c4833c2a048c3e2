import type { Tensor2D } from '@tensorflow/tfjs-core';
import type { KeyValueCache } from './cache.js';

/** Query, key, value and output projection of an attention layer. */
export type ProjectionRole = 'q' | 'k' | 'v' | 'o';

/**
 * One place in a model that the method can convert: an FFN, or one attention projection. Functions over sites work
 * on every architecture that names its sites.
 */
export interface Site {
  /** `layers.0.ffn`, `layers.0.attention.q`; unique within a model. */
  name: string;
  /** An FFN, or an attention projection, also one that was replaced by two layers. */
  kind: 'feedForward' | 'projection';
  /** `ffn`, or which projection of its layer. */
  role: 'ffn' | ProjectionRole;
  /** The transformer layer, from 0. */
  layer: number;
  /** Width of its input. */
  dIn: number;
  /** Width of its output. */
  dOut: number;
  /** Hidden width of an FFN or of a projection that was replaced by two layers; 0 for one that is its one matrix. */
  hidden: number;
  /** Whether the FFN is a GLU. */
  gated: boolean;
}

/**
 * What a tap sees of a site, N = batch · positions rows each. `preActivation`, `activation` and `hidden` are there
 * for an FFN or a replaced projection that ran densely: not for other projections, and not where a substitute computed
 * the output.
 */
export interface SiteValues {
  /** [N, dIn] */
  input: Tensor2D;
  /** [N, hidden], the gate's for a GLU. */
  preActivation?: Tensor2D;
  /** [N, hidden], the activation function of `preActivation`. */
  activation?: Tensor2D;
  /** [N, hidden], what the down projection multiplies: `activation`, times the up projection for a GLU. */
  hidden?: Tensor2D;
  /** [N, dOut], bias included. To be read in the tap: what nobody reads may never be computed by itself. */
  output: Tensor2D;
}

/** Options of one forward pass. */
export interface ForwardOptions {
  /** Called once per site, in the order of execution; the values are on the gradient tape. */
  tap?: (site: Site, values: SiteValues) => void;
  /**
   * Asked once per site for its output [N, dOut] (bias included) from its input x [N, dIn]. `undefined` leaves the
   * dense computation in place.
   */
  substitute?: (site: Site, x: Tensor2D) => Tensor2D | undefined;
  /**
   * Asked once per FFN or replaced projection that runs densely for what its down projection is to multiply, [N, hidden], from its input x
   * [N, dIn] and its own `hidden` [N, hidden]. `undefined` leaves that in place.
   */
  edit?: (site: Site, x: Tensor2D, hidden: Tensor2D) => Tensor2D | undefined;
  /** Return the hidden states before the first layer and after each; default false. */
  hiddenStates?: boolean;
  /**
   * Language models: the positions before the batch's, which are attended to and whose count the batch's positions go
   * on from. The batch's own are added to it.
   */
  cache?: KeyValueCache;
}

/** The widths of a transformer's layers. */
export interface SiteWidths {
  /** Width of the hidden states between layers. */
  dModel: number;
  /** Number of transformer layers. */
  layers: number;
  /** Query heads of a layer. */
  heads: number;
  /** Key/value heads; fewer than `heads` in grouped-query attention. */
  kvHeads: number;
  /** Width of one head. */
  headDim: number;
  /** Hidden width of each FFN. */
  hidden: number;
  /** Whether the FFNs are GLUs. */
  gated: boolean;
}

/** The sites of a transformer in order of execution: per layer q, k, v, o, ffn. */
export function transformerSites(widths: SiteWidths): Site[] {
  const { dModel, layers, hidden, gated } = widths;
  const queryWidth = widths.heads * widths.headDim;
  const keyWidth = widths.kvHeads * widths.headDim;
  const sites: Site[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const projection = (role: ProjectionRole, dIn: number, dOut: number) => {
      const name = `layers.${layer}.attention.${role}`;
      sites.push({ name, kind: 'projection', role, layer, dIn, dOut, hidden: 0, gated: false });
    };
    projection('q', dModel, queryWidth);
    projection('k', dModel, keyWidth);
    projection('v', dModel, keyWidth);
    projection('o', queryWidth, dModel);
    const name = `layers.${layer}.ffn`;
    sites.push({
      name,
      kind: 'feedForward',
      role: 'ffn',
      layer,
      dIn: dModel,
      dOut: dModel,
      hidden,
      gated,
    });
  }
  return sites;
}
