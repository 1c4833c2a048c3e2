// Loaded before the command (`node --import`): from D2DMOE_TEST_DISK_BYTES written bytes on, every write fails as it
// does on a full disk, having written what there was room for.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';

let room = Number(process.env['D2DMOE_TEST_DISK_BYTES']);
const open = fs.promises.open;

/** @type {typeof open} */
fs.promises.open = async (...args) => {
  const file = await open(...args);
  const write = file.write.bind(file);
  /** @param {Uint8Array} bytes @param {number} offset @param {number} length */
  const limited = async (bytes, offset = 0, length = bytes.length - offset) => {
    const fits = Math.min(length, room);
    room -= fits;
    const result = await write(bytes, offset, fits);
    if (fits > 0 || length === 0) return result;
    throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' });
  };
  return Object.assign(file, { write: limited });
};
syncBuiltinESMExports();
