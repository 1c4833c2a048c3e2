// The functions of libcuda that the backend calls, over host memory. Everything happens at once, in the call: a stream
// has nothing outstanding, unless it captures a graph. Calls are checked as the driver checks them, and more strictly
// where a mistake would only show on the card: pointers must lie in live allocations, arguments must fill their buffer.
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "launch.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using emulator::Kernel;

namespace {

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;

enum : CUresult {
  success = 0,
  invalidValue = 1,
  outOfMemory = 2,
  notInitialized = 3,
  noDevice = 100,
  invalidDevice = 101,
  invalidImage = 200,
  invalidContext = 201,
  noBinary = 209,
  unsupportedPtx = 222,
  invalidHandle = 400,
  notFound = 500,
  notReady = 600,
  illegalAddress = 700,
  captureUnsupported = 900,
  captureInvalidated = 901,
};

struct Name {
  CUresult code;
  const char* name;
  const char* text;
};
const Name names[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
};

struct Function {
  const Kernel* kernel;
  unsigned sharedLimit = 48 << 10;
};
struct Module {
  std::string image;
  std::map<std::string, std::unique_ptr<Function>> functions;
};
struct Graph {
  std::vector<std::function<CUresult()>> operations;
};
struct Stream {
  std::unique_ptr<Graph> capture;
  bool invalidated = false;
};
struct Event {
  bool recorded = false;
  double milliseconds = 0;
};
struct Allocation {
  size_t bytes;
  void* mapping;
  size_t mapped;
};

// One lock for all: a launch has the whole emulator to itself.
std::recursive_mutex lock;
bool initialized = false;
CUresult sticky = success;
long long launches = 0;
size_t used = 0;
std::map<CUdeviceptr, Allocation> allocations;
std::set<void*> hostAllocations;
std::set<void*> handles;
Stream defaultStream;
int context;
int pool;
thread_local bool hasContext = false;

size_t setting(const char* name, size_t fallback) {
  const char* text = getenv(name);
  return text == nullptr || *text == 0 ? fallback : (size_t)strtoull(text, nullptr, 10);
}

int driverVersion() { return (int)setting("EMULATED_CUDA_DRIVER", 13000); }
int capability() { return (int)setting("EMULATED_CUDA_CAPABILITY", 90); }
size_t memoryBytes() { return setting("EMULATED_CUDA_MEMORY", 8ull << 30); }
bool guarded() {
  static bool on = setting("EMULATED_CUDA_GUARD", 0) != 0;
  return on;
}

int deviceCount() {
  int count = (int)setting("EMULATED_CUDA_DEVICES", 1);
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  if (visible == nullptr) return count;
  // Indices up to the first one that is none.
  int seen = 0;
  for (const char* at = visible; *at != 0;) {
    char* end;
    long index = strtol(at, &end, 10);
    if (end == at || index < 0 || index >= count) break;
    ++seen;
    at = *end == ',' ? end + 1 : end;
    if (*end != ',') break;
  }
  return seen;
}

#define COMPLAIN(...)                                \
  do {                                               \
    fprintf(stderr, "emulated CUDA: " __VA_ARGS__);  \
    fputc('\n', stderr);                             \
  } while (0)

// What every call begins with.
#define ENTER_WITHOUT_CONTEXT                                \
  std::lock_guard<std::recursive_mutex> guard(lock);         \
  if (!initialized) return notInitialized;                   \
  if (sticky != success) return sticky;
#define ENTER           \
  ENTER_WITHOUT_CONTEXT \
  if (!hasContext) return invalidContext;

/** An error that the context does not recover from, unless EMULATED_CUDA_FORGIVING lets it. */
CUresult stick(CUresult code) {
  if (setting("EMULATED_CUDA_FORGIVING", 0) == 0) sticky = code;
  return code;
}

template <class T>
T* made(T* object) {
  handles.insert(object);
  return object;
}
template <class T>
bool known(T* object) { return handles.count(object) != 0; }
template <class T>
CUresult destroy(T* object) {
  if (handles.erase(object) == 0) return invalidHandle;
  delete object;
  return success;
}

Stream* streamOf(Stream* stream) {
  // 0, 1 and 2: the default streams.
  if ((uintptr_t)stream <= 2) return &defaultStream;
  return known(stream) ? stream : nullptr;
}

CUresult submit(Stream* handle, std::function<CUresult()> operation) {
  Stream* stream = streamOf(handle);
  if (stream == nullptr) return invalidHandle;
  if (!stream->capture) return operation();
  stream->capture->operations.push_back(std::move(operation));
  return success;
}

/** What a capturing stream does not allow also ends its capture. */
CUresult refuseInCapture(Stream* handle) {
  Stream* stream = streamOf(handle);
  if (stream == nullptr) return invalidHandle;
  if (!stream->capture) return success;
  stream->invalidated = true;
  return captureUnsupported;
}

// Device memory. Bytes that nobody wrote are 0xff (NaN, -1), and so are freed ones; words of another NaN lie before and
// behind each allocation.
constexpr size_t guardBytes = 512;
constexpr uint32_t guardWord = 0xffa5ffa5;

void fillGuards(char* data, size_t bytes) {
  uint32_t* before = (uint32_t*)(data - guardBytes);
  for (size_t i = 0; i < guardBytes / 4; ++i) before[i] = guardWord;
  for (size_t i = 0; i < guardBytes; ++i) data[bytes + i] = (char)(guardWord >> i % 4 * 8);
}

bool guardsIntact(const char* data, size_t bytes) {
  const uint32_t* before = (const uint32_t*)(data - guardBytes);
  for (size_t i = 0; i < guardBytes / 4; ++i) {
    if (before[i] != guardWord) return false;
  }
  for (size_t i = 0; i < guardBytes; ++i) {
    if (data[bytes + i] != (char)(guardWord >> i % 4 * 8)) return false;
  }
  return true;
}

CUresult allocate(CUdeviceptr* pointer, size_t bytes) {
  if (pointer == nullptr || bytes == 0) return invalidValue;
  if (bytes > memoryBytes() || used + bytes > memoryBytes()) return outOfMemory;
  Allocation allocation = {bytes, nullptr, 0};
  char* data;
  if (guarded()) {
    // The last byte lies before a page that cannot be touched (as near to it as an alignment of 16 allows).
    size_t page = (size_t)sysconf(_SC_PAGESIZE), body = (bytes + page - 1) / page * page;
    allocation.mapped = body + 2 * page;
    allocation.mapping = mmap(nullptr, allocation.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (allocation.mapping == MAP_FAILED) return outOfMemory;
    char* end = (char*)allocation.mapping + page + body;
    mprotect(allocation.mapping, page, PROT_NONE);
    mprotect(end, page, PROT_NONE);
    data = (char*)((uintptr_t)(end - bytes) & ~(uintptr_t)15);
    memset(data, 0xff, (size_t)(end - data));
  } else {
    if (posix_memalign(&allocation.mapping, 512, bytes + 2 * guardBytes) != 0) return outOfMemory;
    data = (char*)allocation.mapping + guardBytes;
    memset(data, 0xff, bytes);
    fillGuards(data, bytes);
  }
  used += bytes;
  *pointer = (CUdeviceptr)data;
  allocations[*pointer] = allocation;
  return success;
}

CUresult release(CUdeviceptr pointer) {
  if (pointer == 0) return success;
  auto found = allocations.find(pointer);
  if (found == allocations.end()) {
    COMPLAIN("%#llx is freed, but no allocation begins there", pointer);
    return invalidValue;
  }
  Allocation allocation = found->second;
  allocations.erase(found);
  used -= allocation.bytes;
  if (allocation.mapped != 0) {
    munmap(allocation.mapping, allocation.mapped);
    return success;
  }
  bool intact = guardsIntact((char*)pointer, allocation.bytes);
  memset((char*)pointer, 0xff, allocation.bytes);
  free(allocation.mapping);
  if (!intact) {
    COMPLAIN("somebody wrote before or behind the %zu bytes at %#llx", allocation.bytes, pointer);
    return stick(illegalAddress);
  }
  return success;
}

/** The allocation that holds the address (or ends at it), or the table's end. */
auto allocationOf(CUdeviceptr pointer) {
  auto next = allocations.upper_bound(pointer);
  if (next == allocations.begin()) return allocations.end();
  --next;
  return pointer - next->first <= next->second.bytes ? next : allocations.end();
}

CUresult checkRange(const char* what, CUdeviceptr pointer, size_t bytes) {
  if (bytes == 0) return success;
  auto found = allocationOf(pointer);
  if (found != allocations.end() && pointer - found->first + bytes <= found->second.bytes) return success;
  COMPLAIN("%s: %zu bytes at %#llx lie in no allocation", what, bytes, pointer);
  return invalidValue;
}

bool isDevice(CUdeviceptr pointer) { return allocationOf(pointer) != allocations.end(); }

CUresult copy(Stream* stream, const char* what, char* to, const char* from, size_t bytes, bool toDevice, bool fromDevice) {
  return submit(stream, [=] {
    if (toDevice) {
      if (CUresult code = checkRange(what, (CUdeviceptr)to, bytes)) return code;
    }
    if (fromDevice) {
      if (CUresult code = checkRange(what, (CUdeviceptr)from, bytes)) return code;
    }
    if (bytes > 0 && (to == nullptr || from == nullptr)) return (CUresult)invalidValue;
    if (bytes > 0) memmove(to, from, bytes);
    return (CUresult)success;
  });
}

template <class T>
CUresult fill(Stream* stream, const char* what, CUdeviceptr to, T value, size_t count) {
  return submit(stream, [=] {
    if (to % sizeof(T) != 0) return (CUresult)invalidValue;
    if (CUresult code = checkRange(what, to, count * sizeof(T))) return code;
    T* words = (T*)to;
    for (size_t i = 0; i < count; ++i) words[i] = value;
    return (CUresult)success;
  });
}

struct Launch {
  const Kernel* kernel;
  dim3 grid, threads;
  unsigned sharedBytes;
  std::vector<char> arguments;
  std::vector<size_t> offsets;
};

CUresult perform(const Launch& launch) {
  const Kernel& kernel = *launch.kernel;
  if (++launches >= (long long)setting("EMULATED_CUDA_STICKY", SIZE_MAX >> 1)) return stick(illegalAddress);
  // Aligned as the strictest parameter may ask for: tensor maps begin at 64 bytes.
  alignas(64) static char arguments[8192];
  if (launch.arguments.size() > sizeof arguments) return invalidValue;
  memcpy(arguments, launch.arguments.data(), launch.arguments.size());
  std::vector<void*> pointers;
  for (size_t offset : launch.offsets) pointers.push_back(arguments + offset);
  std::vector<std::map<CUdeviceptr, Allocation>::iterator> touched;
  for (int i = 0; i < kernel.parameterCount; ++i) {
    if (!kernel.parameters[i].pointer) continue;
    CUdeviceptr value = *(CUdeviceptr*)pointers[(size_t)i];
    if (value == 0) continue;
    auto found = allocationOf(value);
    if (found == allocations.end()) {
      COMPLAIN("kernel %s: parameter %d is the pointer %#llx, which lies in no allocation", kernel.name, i, value);
      return stick(illegalAddress);
    }
    touched.push_back(found);
  }
  CUresult code = emulator::runLaunch(kernel, launch.grid, launch.threads, launch.sharedBytes, pointers.data());
  if (code != success) return stick(code);
  for (auto allocation : touched) {
    if (guarded() || guardsIntact((const char*)allocation->first, allocation->second.bytes)) continue;
    COMPLAIN("kernel %s wrote before or behind the %zu bytes at %#llx", kernel.name, allocation->second.bytes, allocation->first);
    return stick(illegalAddress);
  }
  return success;
}

/** Copies the arguments to where C's natural alignment puts them. */
CUresult packArguments(Launch& launch, void** params, void** extra) {
  const Kernel& kernel = *launch.kernel;
  size_t end = 0;
  for (int i = 0; i < kernel.parameterCount; ++i) {
    size_t alignment = kernel.parameters[i].alignment;
    end = (end + alignment - 1) / alignment * alignment;
    launch.offsets.push_back(end);
    end += kernel.parameters[i].size;
  }
  launch.arguments.resize(end + 16);
  if (extra != nullptr) {
    if (params != nullptr) return invalidValue;
    const void* buffer = nullptr;
    const size_t* size = nullptr;
    for (; *extra != nullptr; extra += 2) {
      if (*extra == (void*)1) {
        buffer = extra[1];
      } else if (*extra == (void*)2) {
        size = (const size_t*)extra[1];
      } else {
        return invalidValue;
      }
    }
    if (size == nullptr || (buffer == nullptr && *size > 0)) return invalidValue;
    if (*size < end || *size > (end + 15) / 16 * 16) {
      COMPLAIN("kernel %s takes %zu bytes of arguments in %d parameters, and got %zu", kernel.name, end, kernel.parameterCount, *size);
      return invalidValue;
    }
    if (end > 0) memcpy(launch.arguments.data(), buffer, end);
    return success;
  }
  if (params == nullptr && kernel.parameterCount > 0) return invalidValue;
  for (int i = 0; i < kernel.parameterCount; ++i) {
    // A card would not mind, but whoever packs arguments in one block has another idea of the parameters.
    if ((const char*)params[i] - (const char*)params[0] != (ptrdiff_t)launch.offsets[(size_t)i]) {
      COMPLAIN("kernel %s takes parameter %d of %d at byte %zu of its arguments, and got it elsewhere", kernel.name, i, kernel.parameterCount, launch.offsets[(size_t)i]);
      return invalidValue;
    }
    memcpy(launch.arguments.data() + launch.offsets[(size_t)i], params[i], kernel.parameters[i].size);
  }
  return success;
}

/** The two numbers of the image's line ".version 9.0", as 90; 0 where there is none. */
int ptxVersion(const std::string& image) {
  size_t at = image.find(".version ");
  int major = 0, minor = 0;
  if (at == std::string::npos || sscanf(image.c_str() + at, ".version %d.%d", &major, &minor) != 2) return 0;
  return major * 10 + minor;
}

int newestPtx() {
  int major = driverVersion() / 1000, minor = driverVersion() % 1000 / 10;
  return (major - 4) * 10 + (major == 12 && minor > 7 ? minor - 1 : minor);
}

const char* const standIn = "// emulated module ";

CUresult loadModule(Module** module, const char* image) {
  if (module == nullptr || image == nullptr) return invalidValue;
  std::string text = image;
  bool emulated = text.rfind(standIn, 0) == 0;
  if (emulated) {
    std::string name = text.substr(strlen(standIn), text.find_first_of("\r\n") - strlen(standIn));
    if (!emulator::moduleExists(name.c_str())) {
      COMPLAIN("the module %s was not compiled", name.c_str());
      return notFound;
    }
    text = name;
  } else {
    if (text.find(".version") == std::string::npos) return invalidImage;
    if (ptxVersion(text) > newestPtx()) return unsupportedPtx;
    int target = 0;
    size_t at = text.find(".target sm_");
    if (at != std::string::npos && sscanf(text.c_str() + at, ".target sm_%d", &target) == 1 && target > capability()) return noBinary;
  }
  *module = made(new Module{text, {}});
  return success;
}

bool moduleHas(const Module& module, const Kernel& kernel) {
  if (module.image.find(".version") == std::string::npos) return module.image == kernel.module;
  return module.image.find(std::string(".entry ") + kernel.name + "(") != std::string::npos;
}

}  // namespace

EXPORT CUresult cuInit(unsigned flags) {
  std::lock_guard<std::recursive_mutex> guard(lock);
  if (flags != 0) return invalidValue;
  if (deviceCount() == 0) return noDevice;
  initialized = true;
  return success;
}

EXPORT CUresult cuDriverGetVersion(int* version) {
  *version = driverVersion();
  return success;
}

EXPORT CUresult cuGetErrorName(CUresult code, const char** name) {
  for (const Name& entry : names) {
    if (entry.code == code) return *name = entry.name, success;
  }
  *name = nullptr;
  return invalidValue;
}

EXPORT CUresult cuGetErrorString(CUresult code, const char** text) {
  for (const Name& entry : names) {
    if (entry.code == code) return *text = entry.text, success;
  }
  *text = nullptr;
  return invalidValue;
}

EXPORT CUresult cuDeviceGetCount(int* count) {
  ENTER_WITHOUT_CONTEXT
  *count = deviceCount();
  return success;
}

EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  ENTER_WITHOUT_CONTEXT
  if (ordinal < 0 || ordinal >= deviceCount()) return invalidDevice;
  *device = ordinal;
  return success;
}

EXPORT CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  ENTER_WITHOUT_CONTEXT
  snprintf(name, (size_t)length, "Emulated CUDA device");
  return success;
}

EXPORT CUresult cuDeviceGetUuid_v2(char* uuid, CUdevice device) {
  ENTER_WITHOUT_CONTEXT
  memset(uuid, 0, 16);
  uuid[15] = (char)device;
  return success;
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  ENTER_WITHOUT_CONTEXT
  if (device < 0 || device >= deviceCount()) return invalidDevice;
  static const std::map<int, int> attributes = {
      {1, 1024},       // threads per block
      {2, 1024},       // block x
      {3, 1024},       // block y
      {4, 64},         // block z
      {5, 2147483647}, // grid x
      {6, 65535},      // grid y
      {7, 65535},      // grid z
      {8, 48 << 10},   // shared memory per block
      {10, 32},        // warp size
      {12, 65536},     // registers per block
      {13, 1980000},   // clock, kHz
      {16, 4},         // multiprocessors: few, so that grids are small
      {31, 1},         // concurrent kernels
      {36, 3201000},   // memory clock, kHz
      {37, 6144},      // memory bus, bits
      {38, 4 << 20},   // L2
      {39, 2048},      // threads per multiprocessor
      {40, 1},         // copy engines
      {41, 1},         // unified addressing
      {81, 233472},    // shared memory per multiprocessor
      {82, 65536},     // registers per multiprocessor
      {97, (int)emulator::sharedMemoryLimit},
      {106, 32},       // blocks per multiprocessor
      {115, 1},        // memory pools
  };
  if (attribute == 75) return *value = capability() / 10, success;
  if (attribute == 76) return *value = capability() % 10, success;
  auto found = attributes.find(attribute);
  *value = found == attributes.end() ? 0 : found->second;
  return success;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) {
  ENTER_WITHOUT_CONTEXT
  *bytes = memoryBytes();
  return success;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(void** result, CUdevice device) {
  ENTER_WITHOUT_CONTEXT
  if (device < 0 || device >= deviceCount()) return invalidDevice;
  *result = &context;
  return success;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) {
  ENTER_WITHOUT_CONTEXT
  return success;
}

EXPORT CUresult cuCtxSetCurrent(void* value) {
  ENTER_WITHOUT_CONTEXT
  if (value != nullptr && value != &context) return invalidContext;
  hasContext = value != nullptr;
  return success;
}

EXPORT CUresult cuCtxGetCurrent(void** value) {
  ENTER_WITHOUT_CONTEXT
  *value = hasContext ? &context : nullptr;
  return success;
}

EXPORT CUresult cuCtxSynchronize() {
  ENTER
  return success;
}

EXPORT CUresult cuStreamCreate(Stream** stream, unsigned) {
  ENTER
  *stream = made(new Stream);
  return success;
}

EXPORT CUresult cuStreamCreateWithPriority(Stream** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

EXPORT CUresult cuStreamDestroy_v2(Stream* stream) {
  ENTER
  return destroy(stream);
}

// Waiting by a handle needs no current context: threads of a pool do it.
EXPORT CUresult cuStreamSynchronize(Stream* stream) {
  ENTER_WITHOUT_CONTEXT
  return refuseInCapture(stream);
}

EXPORT CUresult cuStreamQuery(Stream* stream) {
  ENTER_WITHOUT_CONTEXT
  return refuseInCapture(stream);
}

EXPORT CUresult cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
  ENTER
  return streamOf(stream) == nullptr || !known(event) ? invalidHandle : success;
}

EXPORT CUresult cuEventCreate(Event** event, unsigned) {
  ENTER
  *event = made(new Event);
  return success;
}

EXPORT CUresult cuEventDestroy_v2(Event* event) {
  ENTER
  return destroy(event);
}

EXPORT CUresult cuEventRecord(Event* event, Stream* stream) {
  ENTER
  if (!known(event)) return invalidHandle;
  return submit(stream, [event] {
    event->recorded = true;
    event->milliseconds = (double)emulator::clock() * 1e-6;
    return (CUresult)success;
  });
}

EXPORT CUresult cuEventQuery(Event* event) {
  ENTER_WITHOUT_CONTEXT
  return known(event) ? success : invalidHandle;
}

EXPORT CUresult cuEventSynchronize(Event* event) {
  ENTER_WITHOUT_CONTEXT
  return known(event) ? success : invalidHandle;
}

EXPORT CUresult cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  ENTER
  if (!known(start) || !known(end) || !start->recorded || !end->recorded) return invalidHandle;
  *milliseconds = (float)(end->milliseconds - start->milliseconds);
  return success;
}

EXPORT CUresult cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  return cuEventElapsedTime(milliseconds, start, end);
}

EXPORT CUresult cuModuleLoadData(Module** module, const char* image) {
  ENTER
  return loadModule(module, image);
}

EXPORT CUresult cuModuleLoadDataEx(Module** module, const char* image, unsigned count, int* options, void** values) {
  ENTER
  CUresult code = loadModule(module, image);
  if (code == success) return success;
  char* log = nullptr;
  size_t bytes = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == 5) log = (char*)values[i];
    if (options[i] == 6) bytes = (size_t)values[i];
  }
  if (log != nullptr && bytes > 0) snprintf(log, bytes, "the emulator does not take this image (%d)", code);
  return code;
}

EXPORT CUresult cuModuleUnload(Module* module) {
  ENTER
  return destroy(module);
}

EXPORT CUresult cuModuleGetFunction(Function** function, Module* module, const char* name) {
  ENTER
  if (!known(module)) return invalidHandle;
  const Kernel* kernel = emulator::findKernel(name);
  if (kernel == nullptr || !moduleHas(*module, *kernel)) return notFound;
  auto& entry = module->functions[name];
  if (!entry) entry = std::make_unique<Function>(Function{kernel});
  *function = entry.get();
  return success;
}

EXPORT CUresult cuFuncSetAttribute(Function* function, int attribute, int value) {
  ENTER
  if (attribute == 8) {
    if (value < 0 || (size_t)value > emulator::sharedMemoryLimit) return invalidValue;
    function->sharedLimit = (unsigned)value;
  }
  return success;
}

EXPORT CUresult cuFuncGetAttribute(int* value, int attribute, Function* function) {
  ENTER
  *value = attribute == 0 ? 1024 : attribute == 8 ? (int)function->sharedLimit : attribute == 4 ? 32 : 0;
  return success;
}

EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function*, int threads, size_t) {
  ENTER
  if (threads <= 0 || threads > 1024) return invalidValue;
  *blocks = 2048 / threads < 32 ? 2048 / threads : 32;
  return success;
}

struct LaunchAttribute {
  unsigned id, unused, value[16];
};
struct LaunchConfig {
  unsigned grid[3], block[3], sharedBytes;
  Stream* stream;
  const LaunchAttribute* attributes;
  unsigned count;
};

EXPORT CUresult cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                               unsigned bz, unsigned sharedBytes, Stream* stream, void** params, void** extra) {
  ENTER
  if (function == nullptr) return invalidHandle;
  const char* name = function->kernel->name;
  if (gx == 0 || gy == 0 || gz == 0 || gx > 2147483647u || gy > 65535 || gz > 65535) {
    COMPLAIN("kernel %s: a grid of (%u, %u, %u) is none", name, gx, gy, gz);
    return invalidValue;
  }
  if (bx == 0 || by == 0 || bz == 0 || bx > 1024 || by > 1024 || bz > 64 || (size_t)bx * by * bz > 1024) {
    COMPLAIN("kernel %s: a block of (%u, %u, %u) is none", name, bx, by, bz);
    return invalidValue;
  }
  if (sharedBytes > function->sharedLimit) {
    COMPLAIN("kernel %s: %u bytes of shared memory, more than its limit of %u", name, sharedBytes, function->sharedLimit);
    return invalidValue;
  }
  auto launch = std::make_shared<Launch>(Launch{function->kernel, {gx, gy, gz}, {bx, by, bz}, sharedBytes, {}, {}});
  if (CUresult code = packArguments(*launch, params, extra)) return code;
  return submit(stream, [launch] { return perform(*launch); });
}

// Blocks run one after the other: what starts early starts in order, and clusters are of one block.
EXPORT CUresult cuLaunchKernelEx(const LaunchConfig* config, Function* function, void** params, void** extra) {
  for (unsigned i = 0; i < config->count; ++i) {
    const LaunchAttribute& attribute = config->attributes[i];
    if (attribute.id != 6 && !(attribute.id == 4 && attribute.value[0] * attribute.value[1] * attribute.value[2] == 1)) {
      COMPLAIN("cuLaunchKernelEx: attribute %u is not emulated", attribute.id);
      return invalidValue;
    }
  }
  const unsigned *g = config->grid, *b = config->block;
  return cuLaunchKernel(function, g[0], g[1], g[2], b[0], b[1], b[2], config->sharedBytes, config->stream, params, extra);
}

EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER
  *total = memoryBytes();
  *free = *total - used;
  return success;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* pointer, size_t bytes) {
  ENTER
  return allocate(pointer, bytes);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr pointer) {
  ENTER
  return release(pointer);
}

// Graphs that allocate are not emulated.
EXPORT CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t bytes, Stream* stream) {
  ENTER
  if (CUresult code = refuseInCapture(stream)) return code;
  return allocate(pointer, bytes);
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr pointer, Stream* stream) {
  ENTER
  if (CUresult code = refuseInCapture(stream)) return code;
  return release(pointer);
}

EXPORT CUresult cuDeviceGetDefaultMemPool(void** result, CUdevice) {
  ENTER_WITHOUT_CONTEXT
  *result = &pool;
  return success;
}

EXPORT CUresult cuDeviceGetMemPool(void** result, CUdevice device) { return cuDeviceGetDefaultMemPool(result, device); }

EXPORT CUresult cuMemPoolSetAttribute(void* handle, int, void*) {
  ENTER_WITHOUT_CONTEXT
  return handle == &pool ? success : invalidValue;
}

EXPORT CUresult cuMemPoolGetAttribute(void* handle, int attribute, void* value) {
  ENTER_WITHOUT_CONTEXT
  if (handle != &pool) return invalidValue;
  // 5 to 8: reserved and used bytes, now and at most.
  *(uint64_t*)value = attribute >= 5 && attribute <= 8 ? used : 0;
  return success;
}

EXPORT CUresult cuMemPoolTrimTo(void* handle, size_t) {
  ENTER_WITHOUT_CONTEXT
  return handle == &pool ? success : invalidValue;
}

EXPORT CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  ENTER
  if (bytes == 0) return invalidValue;
  if (posix_memalign(pointer, 4096, bytes) != 0) return outOfMemory;
  hostAllocations.insert(*pointer);
  return success;
}

EXPORT CUresult cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

EXPORT CUresult cuMemFreeHost(void* pointer) {
  ENTER
  if (hostAllocations.erase(pointer) == 0) return invalidValue;
  free(pointer);
  return success;
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, Stream* stream) {
  ENTER
  return copy(stream, "cuMemcpyHtoDAsync", (char*)to, (const char*)from, bytes, true, false);
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, Stream* stream) {
  ENTER
  return copy(stream, "cuMemcpyDtoHAsync", (char*)to, (const char*)from, bytes, false, true);
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, Stream* stream) {
  ENTER
  return copy(stream, "cuMemcpyDtoDAsync", (char*)to, (const char*)from, bytes, true, true);
}

EXPORT CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, Stream* stream) {
  ENTER
  return copy(stream, "cuMemcpyAsync", (char*)to, (const char*)from, bytes, isDevice(to), isDevice(from));
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
EXPORT CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }
EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr); }

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, Stream* stream) {
  ENTER
  return fill(stream, "cuMemsetD8Async", to, value, count);
}

EXPORT CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, Stream* stream) {
  ENTER
  return fill(stream, "cuMemsetD16Async", to, value, count);
}

EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, Stream* stream) {
  ENTER
  return fill(stream, "cuMemsetD32Async", to, value, count);
}

/** 16-bit elements and swizzled lines of 128 bytes, which is what the backend has. */
EXPORT CUresult cuTensorMapEncodeTiled(emulator::TensorMap* map, int type, unsigned rank, void* address, const uint64_t* dimensions,
                                       const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave, int swizzle,
                                       int, int) {
  ENTER
  constexpr int float16 = 6, bfloat16 = 9, swizzle128 = 3;
  if (map == nullptr || (uintptr_t)map % 64 != 0 || (type != float16 && type != bfloat16) || rank != 3 || (uintptr_t)address % 16 != 0) return invalidValue;
  if (interleave != 0 || swizzle != swizzle128 || box[0] != 64) return invalidValue;
  for (int i = 0; i < 3; ++i) {
    if (dimensions[i] == 0 || box[i] == 0 || box[i] > 256 || steps[i] != 1) return invalidValue;
  }
  if (strides[0] % 16 != 0 || strides[1] % 16 != 0 || strides[0] < dimensions[0] * 2) return invalidValue;
  *map = {(uint64_t)address, {dimensions[0], dimensions[1], dimensions[2]}, {strides[0], strides[1]}, {box[0], box[1], box[2]}};
  return success;
}

EXPORT CUresult cuStreamBeginCapture_v2(Stream* handle, int) {
  ENTER
  if ((uintptr_t)handle <= 2) return captureUnsupported;
  Stream* stream = streamOf(handle);
  if (stream == nullptr) return invalidHandle;
  if (stream->capture) return invalidValue;
  stream->capture = std::make_unique<Graph>();
  stream->invalidated = false;
  return success;
}

EXPORT CUresult cuStreamIsCapturing(Stream* handle, int* status) {
  ENTER
  Stream* stream = streamOf(handle);
  if (stream == nullptr) return invalidHandle;
  *status = !stream->capture ? 0 : stream->invalidated ? 2 : 1;
  return success;
}

EXPORT CUresult cuStreamEndCapture(Stream* handle, Graph** graph) {
  ENTER
  Stream* stream = streamOf(handle);
  if (stream == nullptr) return invalidHandle;
  if (!stream->capture) return invalidValue;
  std::unique_ptr<Graph> captured = std::move(stream->capture);
  *graph = nullptr;
  if (stream->invalidated) return captureInvalidated;
  *graph = made(captured.release());
  return success;
}

EXPORT CUresult cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
  ENTER
  if (!known(graph)) return invalidHandle;
  *executable = made(new Graph(*graph));
  return success;
}

EXPORT CUresult cuGraphLaunch(Graph* executable, Stream* stream) {
  ENTER
  if (!known(executable)) return invalidHandle;
  std::vector<std::function<CUresult()>> operations = executable->operations;
  return submit(stream, [operations] {
    for (const auto& operation : operations) {
      if (CUresult code = operation()) return code;
    }
    return (CUresult)success;
  });
}

EXPORT CUresult cuGraphExecDestroy(Graph* executable) {
  ENTER
  return destroy(executable);
}

EXPORT CUresult cuGraphDestroy(Graph* graph) {
  ENTER
  return destroy(graph);
}
