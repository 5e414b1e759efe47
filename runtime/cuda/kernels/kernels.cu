// All kernels, as one translation unit and one fatbin.

#include "elementwise.cuh"
#include "embed_tokens.cuh"
#include "kv_cache_append.cuh"
#include "linear.cuh"
#include "linear_fp4.cuh"
#include "mma_probe.cuh"
#include "moe.cuh"
#include "paged_attention.cuh"
#include "read_bandwidth.cuh"
#include "recurrent.cuh"
#include "rms_norm.cuh"
#include "rotary.cuh"
