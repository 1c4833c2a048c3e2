export { comparisonSentences, headline } from './report/findings.js';
export { type RenderedReport, renderReport } from './report/render.js';
export type {
  ActivationSparsity,
  ImageSample,
  OperatingPoint,
  ReportCurve,
  ReportData,
  ReportSettings,
  TextSample,
  ThresholdGain,
  WallClock,
} from './report/types.js';
