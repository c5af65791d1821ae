// Included before everything else when a .cu file is compiled for the CPU: CUDA's words and built-in functions.
#pragma once
#include <assert.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "block.h"
#include "registry.h"

// CUDA's headers compiled for the host; the kernels are compiled as if for this device.
#ifndef EMULATED_GPU
#define EMULATED_GPU 1
#endif
#define __CUDA_ARCH__ 900
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#undef __host__
#undef __device__
#undef __global__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#undef __align__
#undef __managed__
#undef __grid_constant__
#define __host__
#define __device__
#define __global__ __attribute__((noinline, visibility("hidden")))
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// build.sh translates declarations of shared memory; this is one it did not understand
#define __shared__ this_declaration_of_shared_memory_is_not_understood_by_the_emulation

#define threadIdx (::emulate::thread_index)
#define blockIdx (::emulate::block_index)
#define blockDim (::emulate::block_size)
#define gridDim (::emulate::grid_size)
constexpr int warpSize = 32;

#include "atomics.h"
#include "functions.h"
#include "warp.h"
