// An API report for each package entry: node tools/api/report.mjs [--check]
// Writes docs/api/NAME.api.md, which a change of a signature changes too; --check fails where one is not up to date.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { Extractor, ExtractorConfig, ExtractorLogLevel } from '@microsoft/api-extractor';
import { packageEntries, root } from './entries.mjs';

/**
 * The report of one entry.
 *
 * @param {import('./entries.mjs').Entry} entry
 */
function reportOf({ folder, name, types }) {
  const temporary = mkdtempSync(join(tmpdir(), 'd2dmoe-api-'));
  try {
    const config = ExtractorConfig.prepare({
      configObject: {
        projectFolder: folder,
        newlineKind: 'lf',
        mainEntryPointFilePath: types,
        // The workspace's TypeScript has no API of the kind that the extractor needs; it brings its own.
        compiler: {
          overrideTsconfig: {
            compilerOptions: {
              target: 'ES2023',
              module: 'NodeNext',
              moduleResolution: 'NodeNext',
              lib: ['ES2023', 'DOM'],
              types: [],
              skipLibCheck: true,
            },
            files: [types],
          },
        },
        apiReport: {
          enabled: true,
          reportFileName: name,
          reportFolder: temporary,
          reportTempFolder: join(temporary, 'temp'),
        },
        docModel: { enabled: false },
        dtsRollup: { enabled: false },
        messages: {
          compilerMessageReporting: { default: { logLevel: ExtractorLogLevel.None } },
          extractorMessageReporting: { default: { logLevel: ExtractorLogLevel.None } },
          tsdocMessageReporting: { default: { logLevel: ExtractorLogLevel.None } },
        },
      },
      configObjectFullPath: undefined,
      packageJsonFullPath: join(folder, 'package.json'),
    });
    Extractor.invoke(config, { localBuild: true, messageCallback: (m) => (m.handled = true) });
    return readFileSync(join(temporary, `${name}.api.md`), 'utf8');
  } finally {
    rmSync(temporary, { recursive: true });
  }
}

const isCheck = process.argv.includes('--check');
const reports = join(root, 'docs/api');
mkdirSync(reports, { recursive: true });
let stale = 0;
for (const entry of packageEntries()) {
  const file = join(reports, `${entry.name}.api.md`);
  const report = reportOf(entry);
  if (existsSync(file) && readFileSync(file, 'utf8') === report) continue;
  if (!isCheck) {
    writeFileSync(file, report);
    console.log(`wrote ${basename(file)}`);
    continue;
  }
  stale++;
  console.error(`docs/api/${basename(file)} is not up to date.`);
}
if (stale > 0) {
  console.error(
    'error: the public API has changed: node tools/api/report.mjs, and look at the diff.',
  );
  process.exitCode = 1;
}
