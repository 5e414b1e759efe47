// All kernels, as one translation unit and one fatbin.

#include "mma_probe.cuh"
