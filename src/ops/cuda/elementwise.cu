// Copies, sums and casts of whole tensors, and sums over rows.
#include "common.cuh"

#define INDEX ((size_t)blockIdx.x * blockDim.x + threadIdx.x)

// sum = a + b; sum may be a.
template <class T> __device__ void add(T* sum, const T* a, const T* b, size_t n) {
    size_t i = INDEX;
    if (i < n) sum[i] = put<T>(to_float(a[i]) + to_float(b[i]));
}
FOR_BOTH(add, (T* sum, const T* a, const T* b, size_t n), (sum, a, b, n))

template <class T> __device__ void multiply(T* y, const T* x, size_t n, float factor) {
    size_t i = INDEX;
    if (i < n) y[i] = put<T>(to_float(x[i]) * factor);
}
FOR_BOTH(multiply, (T* y, const T* x, size_t n, float factor), (y, x, n, factor))

template <class T> __device__ void from_f32(T* y, const float* x, size_t n) {
    size_t i = INDEX;
    if (i < n) y[i] = put<T>(x[i]);
}
FOR_BOTH(from_f32, (T* y, const float* x, size_t n), (y, x, n))

template <class T> __device__ void to_f32(float* y, const T* x, size_t n) {
    size_t i = INDEX;
    if (i < n) y[i] = to_float(x[i]);
}
FOR_BOTH(to_f32, (float* y, const T* x, size_t n), (y, x, n))

// y = x * mask, the element's index in the tensor being its index in the mask.
template <class T> __device__ void drop_out(T* y, const T* x, size_t n, MASK_ARGS) {
    size_t i = INDEX;
    if (i < n) y[i] = put<T>(to_float(x[i]) * mask_factor(MASK_PASS, (unsigned)i));
}
FOR_BOTH(drop_out, (T* y, const T* x, size_t n, MASK_ARGS), (y, x, n, MASK_PASS))

// Columns from_start.. of rows of from_width go to columns to_start.. of rows of to_width, times the mask of the wider
// row they come from (masked = 1), go to (masked = 2), or nothing (0).
template <class T>
__device__ void copy_columns(T* to, const T* from, int rows, int width, int to_width, int to_start, int from_width,
                             int from_start, int masked, MASK_ARGS) {
    size_t i = INDEX;
    if (i >= (size_t)rows * width) return;
    size_t row = i / width, column = i % width;
    size_t source = row * from_width + from_start + column, target = row * to_width + to_start + column;
    float factor = 1.0f;
    if (masked == 1) factor = mask_factor(MASK_PASS, (unsigned)source);
    if (masked == 2) factor = mask_factor(MASK_PASS, (unsigned)target);
    to[target] = masked ? put<T>(to_float(from[source]) * factor) : from[source];
}
FOR_BOTH(copy_columns,
         (T* to, const T* from, int rows, int width, int to_width, int to_start, int from_width, int from_start,
          int masked, MASK_ARGS),
         (to, from, rows, width, to_width, to_start, from_width, from_start, masked, MASK_PASS))

// Up to eight vectors end to end; e0 .. e7 are where each ends in the result.
template <class T>
__device__ void concatenate(T* to, const T* p0, const T* p1, const T* p2, const T* p3, const T* p4, const T* p5,
                            const T* p6, const T* p7, size_t e0, size_t e1, size_t e2, size_t e3, size_t e4, size_t e5,
                            size_t e6, size_t e7) {
    size_t i = INDEX;
    if (i < e0) to[i] = p0[i];
    else if (i < e1) to[i] = p1[i - e0];
    else if (i < e2) to[i] = p2[i - e1];
    else if (i < e3) to[i] = p3[i - e2];
    else if (i < e4) to[i] = p4[i - e3];
    else if (i < e5) to[i] = p5[i - e4];
    else if (i < e6) to[i] = p6[i - e5];
    else if (i < e7) to[i] = p7[i - e6];
}
FOR_BOTH(concatenate,
         (T* to, const T* p0, const T* p1, const T* p2, const T* p3, const T* p4, const T* p5, const T* p6, const T* p7,
          size_t e0, size_t e1, size_t e2, size_t e3, size_t e4, size_t e5, size_t e6, size_t e7),
         (to, p0, p1, p2, p3, p4, p5, p6, p7, e0, e1, e2, e3, e4, e5, e6, e7))

// sums[chunk][column] = sum over the rows of a chunk, in a fixed order; blocks of 32 x 8 threads, grid (columns / 32,
// chunks). A second launch over the sums with one chunk ends it: no atomics, the same bits each time.
template <class T>
__device__ void column_sums(float* sums, const T* x, int rows, int columns, int stride, int chunk) {
    __shared__ float tile[8][33];
    int column = blockIdx.x * 32 + threadIdx.x;
    int first = blockIdx.y * chunk, last = min(first + chunk, rows);
    float sum = 0.0f;
    if (column < columns)
        for (int row = first + threadIdx.y; row < last; row += 8) sum += to_float(x[(size_t)row * stride + column]);
    tile[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (int i = 1; i < 8; i++) sum += tile[i][threadIdx.x];
        sums[(size_t)blockIdx.y * columns + column] = sum;
    }
}
FOR_BOTH(column_sums, (float* sums, const T* x, int rows, int columns, int stride, int chunk),
         (sums, x, rows, columns, stride, chunk))

// total[0] = sum of x in double over one block of 256 threads, in a fixed order; scaled[0] (unless null) = factor * it, added to
// what is there if `more`.
extern "C" __global__ void total_f32(double* total, float* scaled, const float* x, size_t n, float factor, int more) {
    __shared__ double parts[256];
    double sum = 0.0;
    for (size_t i = threadIdx.x; i < n; i += 256) sum += (double)x[i];
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (threadIdx.x < step) parts[threadIdx.x] += parts[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        total[0] = parts[0];
        if (scaled) scaled[0] = (float)(factor * parts[0] + (more ? (double)scaled[0] : 0.0));
    }
}
