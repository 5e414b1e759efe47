// A stand-in for the NVIDIA driver, for machines without one: it answers as it is told by the environment, allocates
// ordinary memory, takes a fatbin and computes nothing.
//
//   STAND_IN_DEVICES   how many there are [1]
//   STAND_IN_COMPUTE   compute capability, for example 121 [121]
//   STAND_IN_DRIVER    the CUDA that it knows, for example 13000 [13000]
//   STAND_IN_FAIL      FUNCTION=CODE: that function answers with this code, or ends the process if it is 0
//   STAND_IN_MEMORY    bytes that can be allocated in all [no limit]

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, NOT_FOUND = 500 };

static long number(const char *name, long otherwise) {
    const char *value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}

static Result told(const char *function) {
    const char *fail = getenv("STAND_IN_FAIL");
    size_t length = strlen(function);
    if (!fail || strncmp(fail, function, length) != 0 || fail[length] != '=') {
        return SUCCESS;
    }
    Result code = atoi(fail + length + 1);
    if (code == 0) {
        abort();
    }
    return code;
}

#define ANSWER(function)                                                                                                    \
    do {                                                                                                                    \
        Result code = told(function);                                                                                       \
        if (code != SUCCESS) return code;                                                                                   \
    } while (0)

static int context;

Result cuInit(unsigned flags) { (void)flags; ANSWER("cuInit"); return SUCCESS; }
Result cuDriverGetVersion(int *version) { ANSWER("cuDriverGetVersion"); *version = (int)number("STAND_IN_DRIVER", 13000); return SUCCESS; }
Result cuGetErrorName(Result code, const char **name) { (void)code; *name = "CUDA_ERROR_OF_THE_STAND_IN"; return SUCCESS; }
Result cuGetErrorString(Result code, const char **text) { (void)code; *text = "an error of the stand-in"; return SUCCESS; }
Result cuDeviceGetCount(int *count) { ANSWER("cuDeviceGetCount"); *count = (int)number("STAND_IN_DEVICES", 1); return SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) { ANSWER("cuDeviceGet"); *device = ordinal; return SUCCESS; }
Result cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Stand-in %d", device); return SUCCESS; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = 119ul << 30; return SUCCESS; }

Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    ANSWER("cuDeviceGetAttribute");
    long compute = number("STAND_IN_COMPUTE", 121);
    switch (attribute) {
    case 75: *value = (int)(compute / 10); break; // COMPUTE_CAPABILITY_MAJOR
    case 76: *value = (int)(compute % 10); break; // COMPUTE_CAPABILITY_MINOR
    case 16: *value = 48; break;                  // MULTIPROCESSOR_COUNT
    case 18: *value = compute == 121; break;      // INTEGRATED
    case 38: *value = 24 << 20; break;            // L2_CACHE_SIZE
    case 97: *value = 101376; break;              // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    default: *value = 0;
    }
    return SUCCESS;
}

Result cuDevicePrimaryCtxRetain(void **made, int device) { (void)device; ANSWER("cuDevicePrimaryCtxRetain"); *made = &context; return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return SUCCESS; }
Result cuCtxSetCurrent(void *current) { (void)current; return SUCCESS; }
Result cuCtxGetCurrent(void **current) { *current = &context; return SUCCESS; }
Result cuCtxSynchronize(void) { return SUCCESS; }
Result cuStreamSynchronize(void *stream) { (void)stream; ANSWER("cuStreamSynchronize"); return SUCCESS; }
Result cuMemGetInfo_v2(size_t *available, size_t *total) { *available = 100ul << 30; *total = 119ul << 30; return SUCCESS; }

// Only what is a fatbin is taken: its first four bytes say so.
Result cuModuleLoadData(void **module, const void *image) {
    ANSWER("cuModuleLoadData");
    unsigned magic;
    memcpy(&magic, image, sizeof magic);
    *module = &context;
    return magic == 0xba55ed50u ? SUCCESS : INVALID_IMAGE;
}
Result cuModuleUnload(void *module) { (void)module; return SUCCESS; }
Result cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    ANSWER("cuModuleGetFunction");
    *function = &context;
    return strncmp(name, "mma_probe_", 10) == 0 ? SUCCESS : NOT_FOUND;
}
Result cuLaunchKernel(void *function, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f, unsigned shared, void *stream,
                      void **arguments, void **extra) {
    (void)function, (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)shared, (void)stream, (void)arguments, (void)extra;
    ANSWER("cuLaunchKernel");
    return SUCCESS;
}

static size_t allocated;

Result cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
    ANSWER("cuMemAlloc_v2");
    allocated += bytes;
    if (getenv("STAND_IN_MEMORY") && allocated > (size_t)number("STAND_IN_MEMORY", 0)) {
        return OUT_OF_MEMORY;
    }
    *pointer = (unsigned long long)(size_t)calloc(1, bytes);
    return SUCCESS;
}
Result cuMemFree_v2(unsigned long long pointer) { free((void *)(size_t)pointer); return SUCCESS; }
Result cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) { memcpy((void *)(size_t)to, from, bytes); return SUCCESS; }
Result cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *stream) { (void)stream; return cuMemcpyHtoD_v2(to, from, bytes); }
Result cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) { memcpy(to, (void *)(size_t)from, bytes); return SUCCESS; }
Result cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *stream) { (void)stream; return cuMemcpyDtoH_v2(to, from, bytes); }
Result cuMemsetD8_v2(unsigned long long to, unsigned char value, size_t bytes) { memset((void *)(size_t)to, value, bytes); return SUCCESS; }
Result cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *stream) { (void)stream; return cuMemsetD8_v2(to, value, bytes); }
Result cuEventCreate(void **event, unsigned flags) { (void)flags; *event = &context; return SUCCESS; }
Result cuEventDestroy_v2(void *event) { (void)event; return SUCCESS; }
Result cuEventRecord(void *event, void *stream) { (void)event, (void)stream; return SUCCESS; }
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream, (void)event, (void)flags; return SUCCESS; }
