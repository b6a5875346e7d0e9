/* A libcuda.so.1 without a device: what Triton's host code asks of it. It answers as an H200 would, refuses the launches
   that an H200 refuses, and runs none. tests/fake_driver.py builds it and tells it what each kernel uses. */
#include <cuda.h>
#include <stdlib.h>

struct CUfunc_st {
  int registers, local, threads; /* as the cubin says */
  int dynamic;                           /* shared bytes that a launch may ask for */
};

static int host, known, next_registers, next_local;
static long launched;
static char context;

/* The kernel that is loaded next. */
void fake_kernel(int registers, int local) { next_registers = registers, next_local = local, known = 1; }
long fake_launches(void) { return launched; }

/* Whether memory is the host's, where no kernel may reach; else it is the device's. A tensor on "meta" has none: its
   address is its offset, below 64 GiB, where no mapping of a 64-bit process lies. */
void fake_host(int yes) { host = yes; }

CUresult cuInit(unsigned flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { return *version = 13000, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { return *device = ordinal, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *current) { return *current = (CUcontext)&context, CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext next) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) { return *device = 0, CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *value, CUlimit limit) { return *value = 0, CUDA_SUCCESS; }
CUresult cuCtxSetLimit(CUlimit limit, size_t value) { return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *to, CUdevice device) { return *to = (CUcontext)&context, CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status) {
  return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  switch (attribute) {
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return *value = 9, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return *value = 0, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return *value = 232448, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return *value = 233472, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return *value = 65536, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return *value = 132, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return *value = 32, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return *value = 1980000, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return *value = 3201000, CUDA_SUCCESS;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return *value = 6144, CUDA_SUCCESS;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
}

CUresult cuModuleLoadData(CUmodule *module, const void *image) {
  return *module = (CUmodule)image, known ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;
}
CUresult cuModuleUnload(CUmodule module) { return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
  struct CUfunc_st *f = malloc(sizeof *f);
  int each = (next_registers + 7) / 8 * 8 * 32; /* registers are handed out to warps, 8 a thread at a time */
  int warps = each ? 65536 / each : 32;
  *f = (struct CUfunc_st){next_registers, next_local, 32 * (warps < 32 ? warps : 32), 49152};
  return *function = f, known = 0, CUDA_SUCCESS;
}
CUresult cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction f) {
  switch (attribute) {
  case CU_FUNC_ATTRIBUTE_NUM_REGS: return *value = f->registers, CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: return *value = f->local, CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: return *value = 0, CUDA_SUCCESS;
  case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return *value = f->threads, CUDA_SUCCESS;
  default: return CUDA_ERROR_INVALID_VALUE;
  }
}
CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute attribute, int value) {
  if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > 232448)
    return CUDA_ERROR_INVALID_VALUE;
  return f->dynamic = value, CUDA_SUCCESS;
}
CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache config) { return CUDA_SUCCESS; }

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr pointer) {
  return *(CUdeviceptr *)data = pointer, host && pointer >> 36 ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **arguments, void **extra) {
  unsigned threads = config->blockDimX * config->blockDimY * config->blockDimZ;
  if (!f)
    return CUDA_ERROR_INVALID_HANDLE;
  if (config->gridDimX > 2147483647u || config->gridDimY > 65535 || config->gridDimZ > 65535 ||
      !config->gridDimX || !config->gridDimY || !config->gridDimZ || (int)config->sharedMemBytes > f->dynamic)
    return CUDA_ERROR_INVALID_VALUE;
  if (threads > (unsigned)f->threads)
    return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
  return launched++, CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = error == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES ? "too many resources requested for launch"
          : error == CUDA_ERROR_INVALID_IMAGE         ? "device kernel image is invalid"
                                                      : "invalid argument";
  return CUDA_SUCCESS;
}
