// The sum over a block of whole warps, in every thread.
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float parts[32];
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(0xffffffff, x, d);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned i = 0; i < blockDim.x / 32; i++) sum += parts[i];
    __syncthreads();
    return sum;
}
