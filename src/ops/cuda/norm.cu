// Layer normalization with the residual and dropout before it; formulas in norm.rs. A warp does a row.
#include "common.cuh"

// h = x + f*mask of one element; without f, x.
template <class T> __device__ __forceinline__ float residual(const T* x, const T* f, size_t i, MASK_ARGS) {
    float h = to_float(x[i]);
    if (f) h += to_float(f[i]) * mask_factor(MASK_PASS, (unsigned)i);
    return h;
}

// y = LN(x + f*mask); saved: mean and 1/deviation of each row.
template <class T>
__device__ void norm_forward(T* y, float* saved, const T* x, const T* f, const float* gain, const float* shift,
                             int rows, int width, float eps, MASK_ARGS) {
    int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    size_t start = (size_t)row * width;
    float sum = 0.0f;
    for (int j = lane; j < width; j += 32) sum += residual(x, f, start + j, MASK_PASS);
    float mean = warp_sum(sum) / width;
    sum = 0.0f;
    for (int j = lane; j < width; j += 32) {
        float h = residual(x, f, start + j, MASK_PASS) - mean;
        sum += h * h;
    }
    float r = rsqrtf(warp_sum(sum) / width + eps);
    for (int j = lane; j < width; j += 32) {
        float h = residual(x, f, start + j, MASK_PASS) - mean;
        y[start + j] = put<T>(h * r * gain[j] + shift[j]);
    }
    if (lane == 0) {
        saved[2 * (size_t)row] = mean;
        saved[2 * (size_t)row + 1] = r;
    }
}
FOR_BOTH(norm_forward,
         (T* y, float* saved, const T* x, const T* f, const float* gain, const float* shift, int rows, int width,
          float eps, MASK_ARGS),
         (y, saved, x, f, gain, shift, rows, width, eps, MASK_PASS))

// dh (the gradient of x), and df = dh*mask unless it is null.
template <class T>
__device__ void norm_backward(T* dh, T* df, const T* dy, const float* saved, const T* x, const T* f,
                              const float* gain, int rows, int width, MASK_ARGS) {
    int row = blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5), lane = threadIdx.x & 31;
    if (row >= rows) return;
    size_t start = (size_t)row * width;
    float mean = saved[2 * (size_t)row], r = saved[2 * (size_t)row + 1];
    float sum_g = 0.0f, sum_gx = 0.0f;
    for (int j = lane; j < width; j += 32) {
        float normal = (residual(x, f, start + j, MASK_PASS) - mean) * r;
        float g = to_float(dy[start + j]) * gain[j];
        sum_g += g;
        sum_gx += g * normal;
    }
    float mean_g = warp_sum(sum_g) / width, mean_gx = warp_sum(sum_gx) / width;
    for (int j = lane; j < width; j += 32) {
        float normal = (residual(x, f, start + j, MASK_PASS) - mean) * r;
        float g = to_float(dy[start + j]) * gain[j];
        float d = r * (g - mean_g - normal * mean_gx);
        dh[start + j] = put<T>(d);
        if (df) df[start + j] = put<T>(d * mask_factor(MASK_PASS, (unsigned)(start + j)));
    }
}
FOR_BOTH(norm_backward,
         (T* dh, T* df, const T* dy, const float* saved, const T* x, const T* f, const float* gain, int rows, int width,
          MASK_ARGS),
         (dh, df, dy, saved, x, f, gain, rows, width, MASK_PASS))

// sums[chunk][0..width] = sum of dy * normal, sums[chunk][width..] = sum of dy over the rows of a chunk; blocks of 32 x 8
// threads, grid (width / 32, chunks), to be ended by column_sums.
template <class T>
__device__ void norm_sums(float* sums, const T* dy, const float* saved, const T* x, const T* f, int rows, int width,
                          int chunk, MASK_ARGS) {
    __shared__ float gains[8][33], shifts[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    int first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float gain = 0.0f, shift = 0.0f;
    if (column < width) {
        for (int row = first + threadIdx.y; row < last; row += 8) {
            size_t i = (size_t)row * width + column;
            float d = to_float(dy[i]);
            gain += d * (residual(x, f, i, MASK_PASS) - saved[2 * (size_t)row]) * saved[2 * (size_t)row + 1];
            shift += d;
        }
    }
    gains[threadIdx.y][threadIdx.x] = gain;
    shifts[threadIdx.y][threadIdx.x] = shift;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
        for (int i = 1; i < 8; i++) {
            gain += gains[i][threadIdx.x];
            shift += shifts[i][threadIdx.x];
        }
        sums[(size_t)blockIdx.y * 2 * width + column] = gain;
        sums[(size_t)blockIdx.y * 2 * width + width + column] = shift;
    }
}
FOR_BOTH(norm_sums,
         (float* sums, const T* dy, const float* saved, const T* x, const T* f, int rows, int width, int chunk,
          MASK_ARGS),
         (sums, dy, saved, x, f, rows, width, chunk, MASK_PASS))

// h = x + f*mask
template <class T> __device__ void add_dropped(T* h, const T* x, const T* f, size_t n, MASK_ARGS) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) h[i] = put<T>(residual(x, f, i, MASK_PASS));
}
FOR_BOTH(add_dropped, (T* h, const T* x, const T* f, size_t n, MASK_ARGS), (h, x, f, n, MASK_PASS))
