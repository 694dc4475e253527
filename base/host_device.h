// HPROC_HOST_DEVICE: marks functions that CUDA kernels call too; nothing to a host compiler.
#pragma once

#if defined(__CUDACC__)
#define HPROC_HOST_DEVICE __host__ __device__
#else
#define HPROC_HOST_DEVICE
#endif
