/** Text as HTML and XML hold it, between tags and in quoted attributes; control characters, which XML lacks, left out. */
export function escape(text: string): string {
  const replacements: Record<string, string> = {
    '&': '&amp;',
    '<': '&lt;',
    '>': '&gt;',
    '"': '&quot;',
    "'": '&#39;',
  };
  return printable(text).replace(/[&<>"']/g, (character) => replacements[character] as string);
}

/** Text without the control characters that XML cannot hold. */
export function printable(text: string): string {
  return Array.from(text, (character) => {
    const code = character.codePointAt(0) as number;
    const isControl = code < 32 && !['\t', '\n', '\r'].includes(character);
    const isHalf = code >= 0xd800 && code <= 0xdfff;
    return isControl || isHalf || code === 0xfffe || code === 0xffff ? '�' : character;
  }).join('');
}

/** A table: the first column names the rows, the others hold figures. Cells are text, or HTML where marked so. */
export function table(
  caption: string,
  header: readonly string[],
  rows: readonly (readonly Cell[])[],
): string {
  const cell = (content: Cell) => (typeof content === 'string' ? escape(content) : content.html);
  const head = header.map((name) => `<th scope="col">${escape(name)}</th>`).join('');
  const body = rows
    .map(([first = '', ...others]) => {
      const cells = others.map((content) => `<td>${cell(content)}</td>`).join('');
      return `<tr><th scope="row">${cell(first)}</th>${cells}</tr>`;
    })
    .join('\n');
  return `<div class="table"><table>
<caption>${escape(caption)}</caption>
<thead><tr>${head}</tr></thead>
<tbody>
${body}
</tbody>
</table></div>`;
}

/** What a table's cell holds. */
export type Cell = string | { html: string };
