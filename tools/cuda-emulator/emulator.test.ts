import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import koffi from 'koffi';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { buildEmulator } from './build.mjs';

const found = spawnSync('g++', ['--version']).error === undefined;

const ILLEGAL_ADDRESS = 700;
const MISALIGNED_ADDRESS = 716;
const LAUNCH_FAILED = 719;

type Value = ['p' | 'i' | 'l' | 'f' | 'd' | 'b', number];
type Size = [number, number, number];

/** The driver's functions, with every address a number. */
function open(path: string) {
  const library = koffi.load(path);
  const bind = (declaration: string) =>
    library.func(declaration) as unknown as (...args: unknown[]) => number;
  return {
    init: bind('int cuInit(uint32_t flags)'),
    retain: bind('int cuDevicePrimaryCtxRetain(uint64_t *context, int device)'),
    setCurrent: bind('int cuCtxSetCurrent(uint64_t context)'),
    allocate: bind('int cuMemAlloc_v2(uint64_t *pointer, size_t bytes)'),
    release: bind('int cuMemFree_v2(uint64_t pointer)'),
    upload: bind('int cuMemcpyHtoD_v2(uint64_t to, void *from, size_t bytes)'),
    download: bind('int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t bytes)'),
    load: bind('int cuModuleLoadData(uint64_t *module, const char *image)'),
    find: bind('int cuModuleGetFunction(uint64_t *function, uint64_t module, const char *name)'),
    launch: bind(
      'int cuLaunchKernel(uint64_t f, uint32_t gx, uint32_t gy, uint32_t gz, uint32_t bx, uint32_t by, uint32_t bz, uint32_t shared, uint64_t stream, void *params, void *extra)',
    ),
    createStream: bind('int cuStreamCreate(uint64_t *stream, uint32_t flags)'),
    beginCapture: bind('int cuStreamBeginCapture_v2(uint64_t stream, int mode)'),
    endCapture: bind('int cuStreamEndCapture(uint64_t stream, uint64_t *graph)'),
    instantiate: bind(
      'int cuGraphInstantiateWithFlags(uint64_t *exec, uint64_t graph, uint64_t flags)',
    ),
    launchGraph: bind('int cuGraphLaunch(uint64_t exec, uint64_t stream)'),
    memoryInfo: bind('int cuMemGetInfo_v2(uint64_t *free, uint64_t *total)'),
  };
}

const out = mkdtempSync(join(tmpdir(), 'cuda-emulator-'));
let cuda: ReturnType<typeof open>;
let module: number;

function ok(code: number): void {
  expect(code).toBe(0);
}

function taken(call: (out: BigUint64Array) => number): number {
  const result = new BigUint64Array(1);
  ok(call(result));
  return Number(result[0]);
}

function device(values: Float32Array | Int32Array): number {
  const pointer = taken((out) => cuda.allocate(out, values.byteLength));
  ok(cuda.upload(pointer, values, values.byteLength));
  return pointer;
}

function host<T extends Float32Array | Int32Array | Uint16Array>(pointer: number, values: T): T {
  ok(cuda.download(values, pointer, values.byteLength));
  return values;
}

/** Launches with the arguments packed as C packs them; returns the CUresult. */
function launch(name: string, grid: Size, block: Size, args: Value[], shared = 0, stream = 0) {
  const buffer = Buffer.alloc(256);
  let end = 0;
  for (const [type, value] of args) {
    const bytes = { p: 8, l: 8, d: 8, i: 4, f: 4, b: 1 }[type];
    end = Math.ceil(end / bytes) * bytes;
    if (type === 'p' || type === 'l') buffer.writeBigInt64LE(BigInt(value), end);
    else if (type === 'd') buffer.writeDoubleLE(value, end);
    else if (type === 'f') buffer.writeFloatLE(value, end);
    else if (type === 'i') buffer.writeInt32LE(value, end);
    else buffer.writeUInt8(value, end);
    end += bytes;
  }
  const size = new BigUint64Array([BigInt(end)]);
  const extra = new BigUint64Array([1n, koffi.address(buffer), 2n, koffi.address(size), 0n]);
  const handle = taken((out) => cuda.find(out, module, name));
  return cuda.launch(handle, ...grid, ...block, shared, stream, null, extra);
}

describe.skipIf(!found)('the CUDA emulator (needs g++)', () => {
  beforeAll(async () => {
    const toy = fileURLToPath(new URL('toy', import.meta.url));
    const { library, kernels, failures, modules } = await buildEmulator(out, toy);
    if (kernels === 0) throw new Error(JSON.stringify(failures));
    cuda = open(library);
    ok(cuda.init(0));
    ok(cuda.setCurrent(taken((out) => cuda.retain(out, 0))));
    const image = readFileSync(join(modules, 'toy.ptx'), 'utf8');
    module = taken((out) => cuda.load(out, image));
  });
  beforeEach(() => {
    process.env['EMULATED_CUDA_FORGIVING'] = '1';
  });
  afterAll(() => {
    rmSync(out, { recursive: true, force: true });
  });

  test('a grid covers every element', () => {
    const n = 100_003;
    const a = Float32Array.from({ length: n }, (_, i) => i % 17);
    const b = Float32Array.from({ length: n }, (_, i) => i % 5);
    const c = taken((out) => cuda.allocate(out, n * 4));
    const args: Value[] = [
      ['p', device(a)],
      ['p', device(b)],
      ['p', c],
      ['l', n],
    ];
    ok(launch('toy_add', [7, 1, 1], [256, 1, 1], args));
    expect(host(c, new Float32Array(n))).toEqual(a.map((x, i) => x + (b[i] ?? 0)));
  });

  test('memory that nobody wrote is NaN', () => {
    const pointer = taken((out) => cuda.allocate(out, 12));
    expect([...host(pointer, new Float32Array(3))]).toEqual([NaN, NaN, NaN]);
  });

  test('arguments of every size lie at their natural alignment', () => {
    const result = device(new Int32Array(6));
    const args: Value[] = [
      ['p', result],
      ['i', 1],
      ['d', 2],
      ['f', 3],
      ['l', 4],
      ['b', 5],
      ['i', 6],
    ];
    ok(launch('toy_pack', [1, 1, 1], [1, 1, 1], args));
    expect([...host(result, new Int32Array(6))]).toEqual([1, 2, 3, 4, 5, 6]);
    expect(launch('toy_pack', [1, 1, 1], [1, 1, 1], args.slice(0, 4))).toBe(1);
  });

  test('a struct of ints comes by value', () => {
    const result = device(new Int32Array(8));
    const dims = Array.from({ length: 8 }, (_, i): Value => ['i', i + 1]);
    ok(launch('toy_struct', [1, 1, 1], [32, 1, 1], [['p', result], ...dims, ['f', 3]]));
    expect([...host(result, new Int32Array(8))]).toEqual([3, 6, 9, 12, 15, 18, 21, 24]);
  });

  test.each([
    ['toy_block_sum', [256, 1, 1], 0],
    ['toy_block_sum', [128, 1, 1], 0],
    ['toy_warp_sum', [256, 1, 1], 32],
    ['toy_warp_sum', [32, 32, 1], 128],
  ] as [string, Size, number][])('%s sums in a block of %j', (name, block, shared) => {
    const x = Float32Array.from({ length: 5000 }, (_, i) => i % 7);
    const y = device(new Float32Array(1));
    ok(
      launch(
        name,
        [1, 1, 1],
        block,
        [
          ['p', device(x)],
          ['p', y],
          ['i', x.length],
        ],
        shared,
      ),
    );
    expect(host(y, new Float32Array(1))[0]).toBe(x.reduce((sum, value) => sum + value, 0));
  });

  test('votes and shuffles follow lanes, widths and warps', () => {
    const x = Int32Array.from({ length: 64 }, (_, i) => (i * i) % 11);
    const result = device(new Int32Array(32 + 128));
    ok(
      launch(
        'toy_votes',
        [1, 1, 1],
        [64, 1, 1],
        [
          ['p', device(x)],
          ['p', result],
        ],
      ),
    );
    const got = host(result, new Int32Array(32 + 128));
    const ballot = (from: number) =>
      x.slice(from, from + 32).reduce((bits, value, lane) => bits | ((value & 1) << lane), 0);
    expect([got[0], got[1]]).toEqual([ballot(0), ballot(32)]);
    expect(got[31]).toBe(x.filter((value) => value > 2).length);
    expect(got.slice(32, 96)).toEqual(x.map((value, i) => (i % 8 === 0 ? value : (x[i - 1] ?? 0))));
    expect(got.slice(96)).toEqual(x.map((_, i) => x[i ^ 3] ?? 0));
  });

  test('16-bit floats round to nearest even', () => {
    const x = Float32Array.of(
      1,
      1.00390625,
      1.01171875,
      -2.71,
      1e-8,
      6e-8,
      65504,
      65520,
      1e38,
      NaN,
    );
    const y = taken((out) => cuda.allocate(out, x.length * 2));
    const back = device(new Float32Array(x.length));
    ok(
      launch(
        'toy_bfloat16',
        [1, 1, 1],
        [32, 1, 1],
        [
          ['p', device(x)],
          ['p', y],
          ['p', back],
          ['i', x.length],
        ],
      ),
    );
    expect([...host(y, new Uint16Array(5))]).toEqual([0x3f80, 0x3f80, 0x3f82, 0xc02d, 0x322c]);
    expect([...host(back, new Float32Array(x.length))]).toEqual([
      1,
      1.00390625,
      1.01171875,
      -2.7109375,
      0,
      2 ** -24,
      65504,
      Infinity,
      Infinity,
      NaN,
    ]);
  });

  test('atomics count', () => {
    const x = Int32Array.from({ length: 1000 }, (_, i) => i % 3);
    const counts = device(new Int32Array(3));
    const sum = device(new Float32Array(1));
    ok(
      launch(
        'toy_histogram',
        [2, 1, 1],
        [64, 1, 1],
        [
          ['p', device(x)],
          ['p', counts],
          ['p', sum],
          ['i', 1000],
        ],
      ),
    );
    expect([...host(counts, new Int32Array(3))]).toEqual([334, 333, 333]);
    expect(host(sum, new Float32Array(1))[0]).toBe(1000);
  });

  test('a graph replays its launches', () => {
    const x = device(Float32Array.of(1, 2, 3));
    const stream = taken((out) => cuda.createStream(out, 1));
    ok(cuda.beginCapture(stream, 2));
    ok(
      launch(
        'toy_double',
        [1, 1, 1],
        [32, 1, 1],
        [
          ['p', x],
          ['p', x],
          ['i', 3],
        ],
        0,
        stream,
      ),
    );
    const graph = taken((out) => cuda.endCapture(stream, out));
    expect([...host(x, new Float32Array(3))]).toEqual([1, 2, 3]);
    const executable = taken((out) => cuda.instantiate(out, graph, 0));
    ok(cuda.launchGraph(executable, stream));
    ok(cuda.launchGraph(executable, stream));
    expect([...host(x, new Float32Array(3))]).toEqual([4, 8, 12]);
  });

  test.each([
    ['toy_past_end', [['i', 4]], ILLEGAL_ADDRESS],
    ['toy_wild', [], ILLEGAL_ADDRESS],
    ['toy_misaligned', [], MISALIGNED_ADDRESS],
    ['toy_divergent', [], LAUNCH_FAILED],
    ['toy_bounds', [['i', 4]], ILLEGAL_ADDRESS],
  ] as [string, Value[], number][])(
    'the mistake in %s is found, and the next launch works',
    (name, rest, code) => {
      const x = device(new Float32Array(4));
      expect(launch(name, [1, 1, 1], [32, 1, 1], [['p', x], ...rest])).toBe(code);
      const y = device(Float32Array.of(21));
      ok(
        launch(
          'toy_double',
          [1, 1, 1],
          [32, 1, 1],
          [
            ['p', y],
            ['p', y],
            ['i', 1],
          ],
        ),
      );
      expect(host(y, new Float32Array(1))[0]).toBe(42);
    },
  );

  test('a pointer to freed memory is found', () => {
    const x = device(new Float32Array(4));
    ok(cuda.release(x));
    expect(
      launch(
        'toy_double',
        [1, 1, 1],
        [32, 1, 1],
        [
          ['p', x],
          ['p', x],
          ['i', 4],
        ],
      ),
    ).toBe(ILLEGAL_ADDRESS);
  });

  test('memory ends where EMULATED_CUDA_MEMORY says', () => {
    const free = new BigUint64Array(1);
    const total = new BigUint64Array(1);
    ok(cuda.memoryInfo(free, total));
    process.env['EMULATED_CUDA_MEMORY'] = String(total[0] ?? 0n);
    expect(cuda.allocate(new BigUint64Array(1), Number(free[0]) + 1)).toBe(2);
    delete process.env['EMULATED_CUDA_MEMORY'];
  });

  // The last test: nothing works after it.
  test('an error that sticks makes every later call fail', () => {
    const x = device(Float32Array.of(1));
    delete process.env['EMULATED_CUDA_FORGIVING'];
    process.env['EMULATED_CUDA_STICKY'] = '1';
    expect(
      launch(
        'toy_double',
        [1, 1, 1],
        [32, 1, 1],
        [
          ['p', x],
          ['p', x],
          ['i', 1],
        ],
      ),
    ).toBe(ILLEGAL_ADDRESS);
    delete process.env['EMULATED_CUDA_STICKY'];
    expect(cuda.allocate(new BigUint64Array(1), 4)).toBe(ILLEGAL_ADDRESS);
  });
});
