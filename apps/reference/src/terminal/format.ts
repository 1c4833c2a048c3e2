/**
 * A length of time for people: `4.2 s`, `42 s`, `3 min 05 s`, `1 h 02 min`, `2 d 03 h`.
 *
 * @param seconds At least 0; what is not a finite number becomes `?`.
 */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '?';
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return twoUnits(whole, 60, 'min', 's');
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) return twoUnits(minutes, 60, 'h', 'min');
  return twoUnits(Math.round(minutes / 60), 24, 'd', 'h');
}

function twoUnits(amount: number, ratio: number, large: string, small: string): string {
  const rest = String(amount % ratio).padStart(2, '0');
  return `${Math.floor(amount / ratio)} ${large} ${rest} ${small}`;
}

/** A size in bytes, in decimal units with three digits: `512 B`, `12.4 MB`, `5.05 GB`. */
export function formatBytes(bytes: number): string {
  const [digits, prefix] = threeDigits(bytes, ['', 'k', 'M', 'G', 'T', 'P']);
  return `${digits} ${prefix}B`;
}

/** A count with three digits, such as parameters or multiply-adds: `950`, `1.2k`, `11.2M`, `4.05G`. */
export function formatCount(count: number): string {
  return threeDigits(count, ['', 'k', 'M', 'G', 'T', 'P']).join('');
}

/** `value` scaled by thousands, as its first three digits without zeros at the end, and the scale's prefix. */
function threeDigits(value: number, prefixes: string[]): [digits: string, prefix: string] {
  let scaled = value;
  let scale = 0;
  // 999.5 would round to 1000 of the smaller unit.
  while (Math.abs(scaled) >= 999.5 && scale < prefixes.length - 1) {
    scaled /= 1000;
    scale++;
  }
  return [String(Number(scaled.toPrecision(3))), prefixes[scale] as string];
}

/**
 * A share as a percentage: `formatPercent(0.3941)` is `39.4 %`.
 *
 * @param decimals Digits behind the point.
 */
export function formatPercent(share: number, decimals = 1): string {
  return `${(100 * share).toFixed(decimals)} %`;
}

/**
 * A figure of the moment, such as a loss, in about four digits and at a steady width while it changes slowly:
 * `0.4321`, `12.34`, `2.500e-5`.
 */
export function formatMetric(value: number): string {
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(3);
  return size < 1
    ? value.toFixed(4)
    : value.toPrecision(Math.max(4, String(Math.trunc(size)).length));
}
