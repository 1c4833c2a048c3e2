// A Vulkan driver that runs on the CPU, for the tests of WebGPU in Node:
//   node tools/software-vulkan.mjs            says which one is there, or how to get one; exit code 1 where none is
//   node tools/software-vulkan.mjs --install  unpacks Mesa's lavapipe beside the system where none is (Debian, no root)
//   node tools/software-vulkan.mjs --lavapipe --install   that one also where chromium's SwiftShader is
//   node tools/software-vulkan.mjs -- COMMAND  runs a command with it
// SwiftShader comes with Debian's chromium and compiles fast, which is most of what the tests wait for; lavapipe has
// shader-f16 and computes faster. The driver of Debian 12 itself is too old for Dawn: this takes the one of backports,
// from the mirror that the machine's own apt uses.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('../node_modules/.cache/software-vulkan', import.meta.url));

/** @typedef {{ name: string, environment: Record<string, string> }} SoftwareVulkan */

/**
 * The software driver to use and the variables under which a process finds it, or undefined. It has to have them when it
 * starts.
 *
 * @param {string} [name] Only this one.
 * @returns {SoftwareVulkan | undefined}
 */
export function softwareVulkan(name) {
  const drivers = [swiftShader(), lavapipe()];
  return drivers.find((driver) => driver && (name === undefined || driver.name === name));
}

/** @returns {SoftwareVulkan | undefined} */
function swiftShader() {
  const chromium = '/usr/lib/chromium';
  const driver = `${chromium}/vk_swiftshader_icd.json`;
  const loader = `${chromium}/libvulkan.so.1`;
  if (!existsSync(driver) || !existsSync(loader)) return undefined;
  // A folder with the loader alone: chromium's has other libraries, which nobody else should get.
  const libraries = join(folder, 'swiftshader');
  const link = join(libraries, 'libvulkan.so.1');
  mkdirSync(libraries, { recursive: true });
  if (!existsSync(link)) symlinkSync(loader, link);
  return { name: 'SwiftShader', environment: environment(libraries, driver) };
}

/** @returns {SoftwareVulkan | undefined} */
function lavapipe() {
  const drivers = join(folder, 'root/usr/share/vulkan/icd.d');
  const driver =
    existsSync(drivers) && readdirSync(drivers).find((file) => file.startsWith('lvp_'));
  const libraries = join(folder, 'root/usr/lib');
  const triple =
    existsSync(libraries) && readdirSync(libraries).find((name) => name.includes('-linux-'));
  if (!driver || !triple) return undefined;
  return {
    name: 'lavapipe',
    environment: environment(join(libraries, triple), join(drivers, driver)),
  };
}

/**
 * @param {string} libraries
 * @param {string} driver
 */
function environment(libraries, driver) {
  const before = process.env['LD_LIBRARY_PATH'];
  return {
    LD_LIBRARY_PATH: before ? `${libraries}:${before}` : libraries,
    VK_ICD_FILENAMES: driver,
    VK_DRIVER_FILES: driver,
  };
}

/** Downloads lavapipe, the Vulkan loader and what they need and the system lacks, and unpacks all of it. */
function installLavapipe() {
  for (const part of ['lists', 'archives', 'root']) {
    rmSync(join(folder, part), { recursive: true, force: true });
  }
  for (const part of ['lists/partial', 'archives/partial', 'root']) {
    mkdirSync(join(folder, part), { recursive: true });
  }
  const [uri, codename] = debianSource();
  const keyring = '/usr/share/keyrings/debian-archive-keyring.gpg';
  const signed = existsSync(keyring) ? `[signed-by=${keyring}] ` : '';
  const backports = `${codename}-backports`;
  const list = join(folder, 'sources.list');
  writeFileSync(
    list,
    [codename, backports].map((suite) => `deb ${signed}${uri} ${suite} main\n`).join(''),
  );
  const settings = [
    `Dir::Etc::SourceList=${list}`,
    'Dir::Etc::SourceParts=/dev/null',
    `Dir::State::Lists=${folder}/lists`,
    `Dir::Cache=${folder}`,
    'Debug::NoLocking=1',
    'APT::Sandbox::User=root',
  ].flatMap((setting) => ['-o', setting]);
  call('apt-get', [...settings, '-q', 'update']);
  const packages = ['mesa-vulkan-drivers', 'libvulkan1'];
  const how = ['--download-only', '--no-install-recommends', '--reinstall', '-q', '-y'];
  call('apt-get', [...settings, 'install', ...how, '-t', backports, ...packages]);
  for (const file of readdirSync(join(folder, 'archives'))) {
    if (file.endsWith('.deb')) {
      call('dpkg', ['--extract', join(folder, 'archives', file), join(folder, 'root')]);
    }
  }
  for (const part of ['lists', 'archives']) rmSync(join(folder, part), { recursive: true });
}

/** The address and the release that apt gets Debian itself from. */
function debianSource() {
  const format = '$(LABEL) $(COMPONENT) $(REPO_URI) $(CODENAME)';
  const targets = call('apt-get', ['indextargets', '--format', format, 'Created-By: Packages']);
  const line = targets
    .split('\n')
    .map((target) => target.split(' '))
    .find(([label, component, , codename = '-']) => {
      return label === 'Debian' && component === 'main' && !codename.includes('-');
    });
  if (!line) throw new Error('apt has no source of Debian here.');
  return /** @type {[string, string]} */ (line.slice(2));
}

/**
 * @param {string} command
 * @param {string[]} args
 */
function call(command, args) {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (error) throw error;
  if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${stderr}`);
  return stdout;
}

function main() {
  const [args, command] = split(process.argv.slice(2));
  const name = args.includes('--lavapipe') ? 'lavapipe' : undefined;
  if (!softwareVulkan(name) && args.includes('--install')) installLavapipe();
  const found = softwareVulkan(name);
  if (!found) {
    console.error(
      'No software Vulkan driver is here: run node tools/software-vulkan.mjs --install',
    );
    return 1;
  }
  const [program, ...programArgs] = command;
  if (program === undefined) {
    console.log(`${found.name}: ${found.environment['VK_ICD_FILENAMES']}`);
    return 0;
  }
  const env = { ...process.env, ...found.environment };
  const { status, error } = spawnSync(program, programArgs, { stdio: 'inherit', env });
  if (error) throw error;
  return status ?? 1;
}

/**
 * What stands before `--` and what behind it.
 *
 * @param {string[]} args
 * @returns {[string[], string[]]}
 */
function split(args) {
  const at = args.indexOf('--');
  return at < 0 ? [args, []] : [args.slice(0, at), args.slice(at + 1)];
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main();
