/** A name from a file as it appears in a message: in quotes, control characters escaped, no longer than a line. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 120)}…` : name);
}
