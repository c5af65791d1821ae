// What the kernels share: number types, dropout masks, reductions.
//
// Activations are T = float or bf16, read and written through to_float and put<T>; sums, weights' gradients and
// everything saved for backward are float. Rows are packed and row-major; counts are int, element indices size_t.
#pragma once
#include <cuda_bf16.h>

typedef __nv_bfloat16 bf16;

// Dynamic shared memory; an emulator of the device has another way to it.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(T, name) extern __shared__ T name[]
#endif

// Both instances of a template kernel; ARGS and CALL are the parameter list (with T) and the arguments in parentheses.
// The namespaces give T its two meanings.
#define FOR_BOTH(name, ARGS, CALL)                                                                                     \
    inline namespace name##_of_float { typedef float T; extern "C" __global__ void name##_f32 ARGS { name<T> CALL; } } \
    inline namespace name##_of_bf16 { typedef bf16 T; extern "C" __global__ void name##_bf16 ARGS { name<T> CALL; } }

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bf16 x) { return __bfloat162float(x); }

template <class T> __device__ __forceinline__ T put(float x);
template <> __device__ __forceinline__ float put<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 put<bf16>(float x) { return __float2bfloat16_rn(x); }

// 32 bits of an element; the same as MaskKey::bits in rng.rs.
__device__ __forceinline__ unsigned mask_bits(unsigned lo, unsigned hi, unsigned index) {
    unsigned x = index * 0x9E3779B9u + lo;
    x = ((x ^ (x >> 16)) * 0x85EBCA6Bu) ^ hi;
    x = (x ^ (x >> 13)) * 0xC2B2AE35u;
    x ^= x >> 16;
    x = x * 0x7FEB352Du;
    return x ^ (x >> 15);
}

// A dropout mask as kernels get it; without dropout the threshold is 0 and the scale 1.
#define MASK_ARGS unsigned lo, unsigned hi, unsigned threshold, float scale
#define MASK_PASS lo, hi, threshold, scale

// 0 or 1/(1-p).
__device__ __forceinline__ float mask_factor(MASK_ARGS, unsigned index) {
    if (threshold == 0) return scale;
    return mask_bits(lo, hi, index) >= threshold ? scale : 0.0f;
}

template <class T> __device__ __forceinline__ T warp_sum(T x) {
    for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = 16; step > 0; step >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// Over all threads of a block of whole warps, at most 1024; `shared` holds 32 numbers and may be used again after.
template <class T> __device__ __forceinline__ T block_sum(T x, T* shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = lane < warps ? shared[lane] : T(0);
    x = warp_sum(x);
    __syncthreads();
    return x;
}

__device__ __forceinline__ float block_max(float x, float* shared) {
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_max(x);
    if (lane == 0) shared[warp] = x;
    __syncthreads();
    x = lane < warps ? shared[lane] : -INFINITY;
    x = warp_max(x);
    __syncthreads();
    return x;
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
