// A stand-in for the NVIDIA driver, for machines without one: it answers as it is told by the environment, allocates
// ordinary memory and takes a fatbin. With `device.cpp` linked to it, it computes; without, launches do nothing.
//
//   STAND_IN_DEVICES   how many there are [1]
//   STAND_IN_COMPUTE   compute capability, for example 121 [121]
//   STAND_IN_DRIVER    the CUDA that it knows, for example 13000 [13000]
//   STAND_IN_FAIL      FUNCTION=CODE: that function answers with this code, or ends the process if it is 0
//   STAND_IN_MEMORY    bytes that can be allocated in all [no limit]

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int Result;
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, NOT_FOUND = 500, CAPTURE_UNSUPPORTED = 900 };

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

// What a thread launches while it captures a stream is kept for the graph; nothing else may be asked by it meanwhile.
struct Node {
    const void *kernel;
    unsigned grid[3], block[3], shared;
    void **arguments;
    struct Node *next;
};
struct Graph {
    struct Node *first, **end;
};
static __thread struct Graph *captured;
#define NOT_WHILE_CAPTURED() do { if (captured) return CAPTURE_UNSUPPORTED; } while (0)

static int context;
static pthread_mutex_t device = PTHREAD_MUTEX_INITIALIZER;

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
Result cuCtxSynchronize(void) { NOT_WHILE_CAPTURED(); return SUCCESS; }
Result cuStreamSynchronize(void *stream) { (void)stream; ANSWER("cuStreamSynchronize"); NOT_WHILE_CAPTURED(); return SUCCESS; }
Result cuStreamCreate(void **stream, unsigned flags) { (void)flags; ANSWER("cuStreamCreate"); *stream = &context; return SUCCESS; }
Result cuStreamDestroy_v2(void *stream) { (void)stream; return SUCCESS; }
static size_t in_use;
Result cuMemGetInfo_v2(size_t *available, size_t *total) { *available = (100ul << 30) - in_use; *total = 119ul << 30; return SUCCESS; }

// Only what is a fatbin is taken: its first four bytes say so.
Result cuModuleLoadData(void **module, const void *image) {
    ANSWER("cuModuleLoadData");
    unsigned magic;
    memcpy(&magic, image, sizeof magic);
    *module = &context;
    return magic == 0xba55ed50u ? SUCCESS : INVALID_IMAGE;
}
Result cuModuleUnload(void *module) { (void)module; return SUCCESS; }
// Given by `device.cpp`.
__attribute__((weak)) const void *stand_in_kernel(const char *name);
__attribute__((weak)) void stand_in_launch(const void *kernel, const unsigned *grid, const unsigned *block, unsigned shared, void **arguments);

__attribute__((weak)) void **stand_in_keep_arguments(const void *kernel, void **arguments);
__attribute__((weak)) void stand_in_drop_arguments(const void *kernel, void **arguments);

Result cuModuleGetFunction(void **function, void *module, const char *name) {
    (void)module;
    ANSWER("cuModuleGetFunction");
    if (stand_in_kernel) {
        *function = (void *)stand_in_kernel(name);
        return *function ? SUCCESS : NOT_FOUND;
    }
    *function = &context;
    return strncmp(name, "mma_probe_", 10) == 0 ? SUCCESS : NOT_FOUND;
}
Result cuLaunchKernel(void *function, unsigned a, unsigned b, unsigned c, unsigned d, unsigned e, unsigned f, unsigned shared, void *stream,
                      void **arguments, void **extra) {
    (void)stream, (void)extra;
    ANSWER("cuLaunchKernel");
    if (shared > 101376 || a == 0 || b == 0 || c == 0 || b > 65535 || c > 65535) {
        return INVALID_VALUE;
    }
    const unsigned grid[3] = {a, b, c}, block[3] = {d, e, f};
    if (captured) {
        struct Node *node = malloc(sizeof *node);
        *node = (struct Node){function, {a, b, c}, {d, e, f}, shared, stand_in_keep_arguments ? stand_in_keep_arguments(function, arguments) : NULL, NULL};
        *captured->end = node;
        captured->end = &node->next;
        return SUCCESS;
    }
    if (stand_in_launch) {
        pthread_mutex_lock(&device);
        stand_in_launch(function, grid, block, shared, arguments);
        pthread_mutex_unlock(&device);
    }
    return SUCCESS;
}

Result cuStreamBeginCapture_v2(void *stream, int mode) {
    (void)mode;
    ANSWER("cuStreamBeginCapture_v2");
    // The stream without a number can't be captured.
    if (captured || stream == NULL) {
        return CAPTURE_UNSUPPORTED;
    }
    captured = calloc(1, sizeof *captured);
    captured->end = &captured->first;
    return SUCCESS;
}
Result cuStreamEndCapture(void *stream, void **graph) {
    (void)stream;
    *graph = captured;
    captured = NULL;
    ANSWER("cuStreamEndCapture");
    return *graph ? SUCCESS : INVALID_VALUE;
}
// One thing is both: what can be run is the graph itself.
Result cuGraphInstantiateWithFlags(void **exec, void *graph, unsigned long long flags) { (void)flags; ANSWER("cuGraphInstantiateWithFlags"); *exec = graph; return SUCCESS; }
Result cuGraphExecDestroy(void *exec) { (void)exec; return SUCCESS; }
Result cuGraphDestroy(void *graph) {
    struct Node *node = ((struct Graph *)graph)->first;
    while (node) {
        struct Node *next = node->next;
        if (stand_in_drop_arguments) stand_in_drop_arguments(node->kernel, node->arguments);
        free(node);
        node = next;
    }
    free(graph);
    return SUCCESS;
}
Result cuGraphLaunch(void *exec, void *stream) {
    ANSWER("cuGraphLaunch");
    NOT_WHILE_CAPTURED();
    for (const struct Node *node = ((struct Graph *)exec)->first; node; node = node->next) {
        Result result = cuLaunchKernel((void *)node->kernel, node->grid[0], node->grid[1], node->grid[2], node->block[0], node->block[1],
                                       node->block[2], node->shared, stream, node->arguments, NULL);
        if (result != SUCCESS) return result;
    }
    return SUCCESS;
}

// Every piece of memory has a head and a tail that nobody may write; what is behind a piece is looked at when it is freed.
enum { GUARD = 256, GUARD_BYTE = 0xa5 };
static size_t allocated;

Result cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
    ANSWER("cuMemAlloc_v2");
    NOT_WHILE_CAPTURED();
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    allocated += bytes;
    if (getenv("STAND_IN_MEMORY") && allocated > (size_t)number("STAND_IN_MEMORY", 0)) {
        return OUT_OF_MEMORY;
    }
    unsigned char *start = NULL;
    if (posix_memalign((void **)&start, GUARD, bytes + 2 * GUARD) != 0) {
        return OUT_OF_MEMORY;
    }
    memset(start, GUARD_BYTE, GUARD);
    memcpy(start, &bytes, sizeof bytes);
    // What was never written is no number.
    memset(start + GUARD, 0xff, bytes);
    memset(start + GUARD + bytes, GUARD_BYTE, GUARD);
    in_use += bytes;
    *pointer = (unsigned long long)(size_t)(start + GUARD);
    return SUCCESS;
}
Result cuMemFree_v2(unsigned long long pointer) {
    unsigned char *start = (unsigned char *)(size_t)pointer - GUARD;
    size_t bytes;
    memcpy(&bytes, start, sizeof bytes);
    for (size_t i = sizeof bytes; i < 2 * GUARD; ++i) {
        if (start[i < GUARD ? i : bytes + i] != GUARD_BYTE) {
            fprintf(stderr, "stand-in: somebody wrote beside a piece of %zu bytes\n", bytes);
            abort();
        }
    }
    in_use -= bytes;
    free(start);
    return SUCCESS;
}
Result cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) { NOT_WHILE_CAPTURED(); memcpy((void *)(size_t)to, from, bytes); return SUCCESS; }
Result cuMemcpyHtoDAsync_v2(unsigned long long to, const void *from, size_t bytes, void *stream) { (void)stream; return cuMemcpyHtoD_v2(to, from, bytes); }
Result cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) { NOT_WHILE_CAPTURED(); memcpy(to, (void *)(size_t)from, bytes); return SUCCESS; }
Result cuMemcpyDtoHAsync_v2(void *to, unsigned long long from, size_t bytes, void *stream) { (void)stream; return cuMemcpyDtoH_v2(to, from, bytes); }
Result cuMemsetD8_v2(unsigned long long to, unsigned char value, size_t bytes) { NOT_WHILE_CAPTURED(); memset((void *)(size_t)to, value, bytes); return SUCCESS; }
Result cuMemsetD8Async(unsigned long long to, unsigned char value, size_t bytes, void *stream) { (void)stream; return cuMemsetD8_v2(to, value, bytes); }
Result cuMemcpyDtoDAsync_v2(unsigned long long to, unsigned long long from, size_t bytes, void *stream) { (void)stream; NOT_WHILE_CAPTURED(); memcpy((void *)(size_t)to, (const void *)(size_t)from, bytes); return SUCCESS; }
// An event is the time at which it was recorded; all is done by then.
Result cuEventCreate(void **event, unsigned flags) {
    (void)flags;
    *event = calloc(1, sizeof(struct timespec));
    return *event ? SUCCESS : OUT_OF_MEMORY;
}
Result cuEventDestroy_v2(void *event) { free(event); return SUCCESS; }
Result cuEventRecord(void *event, void *stream) {
    (void)stream;
    clock_gettime(CLOCK_MONOTONIC, event);
    return SUCCESS;
}
Result cuEventSynchronize(void *event) { (void)event; return SUCCESS; }
Result cuEventElapsedTime_v2(float *milliseconds, void *from, void *to) {
    const struct timespec *start = from, *end = to;
    *milliseconds = (float)((end->tv_sec - start->tv_sec) * 1e3 + (end->tv_nsec - start->tv_nsec) / 1e6);
    return SUCCESS;
}
Result cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream, (void)event, (void)flags; return SUCCESS; }
