// Kernels that try what the emulation has to do right, and some that are wrong on purpose.
#include <stdint.h>

#include "self_test.cuh"

extern "C" __global__ void __launch_bounds__(256) sum_rows(const float* x, float* out, int columns) {
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[size_t(blockIdx.x) * columns + i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// dynamic shared memory: every row is reversed
extern "C" __global__ void reverse_rows(const float* x, float* out, unsigned columns) {
    extern __shared__ float row[];
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) row[i] = x[blockIdx.x * columns + i];
    __syncthreads();
    for (unsigned i = threadIdx.x; i < columns; i += blockDim.x) out[blockIdx.x * columns + i] = row[columns - 1 - i];
}

extern "C" __global__ void count_values(const uint32_t* x, int n, int* counts, float* total, unsigned* largest) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    atomicAdd(counts + x[i], 1);
    atomicAdd(total, float(x[i]));
    atomicMax(largest, x[i]);
}

template <typename T>
__device__ void scale(const T* x, T* out, float by, size_t n) {
    size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) out[i] = T(float(x[i]) * by);
}
#define SCALE(T, NAME) \
    extern "C" __global__ void NAME(const T* x, T* out, float by, size_t n) { scale<T>(x, out, by, n); }
SCALE(float, scale_f32)
SCALE(__nv_bfloat16, scale_bf16)

// one warp: everything a warp can do, results in 16 words for each lane
extern "C" __global__ void warp_things(unsigned* out) {
    unsigned l = threadIdx.x, *o = out + 16 * l;
    o[0] = __shfl_xor_sync(0xffffffff, l, 5);
    o[1] = __shfl_down_sync(0xffffffff, l, 3);
    o[2] = __shfl_up_sync(0xffffffff, l, 3);
    o[3] = __shfl_sync(0xffffffff, l, 7);
    o[4] = __shfl_sync(0xffffffff, l, 3, 8);
    o[5] = __ballot_sync(0xffffffff, l % 3 == 0);
    o[6] = __any_sync(0xffffffff, l == 9) + 2 * __all_sync(0xffffffff, l < 32);
    o[7] = __reduce_add_sync(0xffffffff, l);
    o[8] = __match_any_sync(0xffffffff, l / 4);
    if (l < 16)
        o[9] = __shfl_xor_sync(0x0000ffff, l, 1);
    else
        o[9] = __shfl_down_sync(0xffff0000, l, 1, 16);
    double d = __shfl_xor_sync(0xffffffff, double(l) + 0.5, 1);
    o[10] = unsigned(d * 2);
    o[11] = __shfl_down_sync(0xffffffff, l, 3, 8);
    o[12] = __shfl_up_sync(0xffffffff, l, 3, 8);
    o[13] = unsigned(__syncthreads_count(l < 10));
    o[14] = max(int(l) - 40, -20) + 100;
    o[15] = __popc(l) + __clz(1) + __ffs(8);
}

// blocks hand their sums to the last one
extern "C" __global__ void last_block(const float* x, float* parts, unsigned* done, float* out) {
    float sum = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
    __shared__ bool last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        __threadfence();
        last = atomicAdd(done, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float all = 0.0f;
        for (unsigned b = 0; b < gridDim.x; b++) all += parts[b];
        *out = all;
    }
}

// ---- wrong ones
extern "C" __global__ void wrong_barrier(float* x) {
    if (threadIdx.x != 3) __syncthreads();
    if (threadIdx.x == 3) __shfl_sync(0xffffffff, 1, 0);
    x[threadIdx.x] = 1.0f;
}
extern "C" __global__ void wrong_no_barrier(float* out) {
    __shared__ float a[64];
    a[threadIdx.x] = float(threadIdx.x);
    out[threadIdx.x] = a[63 - threadIdx.x];
}
extern "C" __global__ void wrong_mask(int* out) {
    int l = threadIdx.x;
    if (l < 16)
        out[l] = __shfl_sync(0xffffffff, l, 0);
    else
        out[l] = __shfl_sync(0xffff8000, l, 16);
}
extern "C" __global__ void wrong_end(float* x, int n) { x[n + threadIdx.x] = 1.0f; }
extern "C" __global__ void wrong_shared_end(float* out, int n) {
    __shared__ float a[16];
    if (threadIdx.x == 0)
        for (int i = 0; i < n; i++) a[i] = float(i);
    __syncthreads();
    out[threadIdx.x] = a[threadIdx.x % 16];
}
// several threads add to one number, not atomically
extern "C" __global__ void wrong_sum(float* x) { x[0] += 1.0f; }
// blocks read what other blocks write
extern "C" __global__ void wrong_blocks(float* x) {
    x[blockIdx.x + 1] = x[blockIdx.x] + 1.0f;
}
extern "C" __global__ void wrong_uninitialized(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x] * 0.0f; }
extern "C" __global__ void wrong_alignment(const float* x, float4* out) {
    out[threadIdx.x] = reinterpret_cast<const float4*>(x + 1)[threadIdx.x];
}
