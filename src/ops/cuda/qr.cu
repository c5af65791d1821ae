// The orthogonal factor of square matrices by Householder's reflections, in double: a block of threads a matrix.
//
//   H_k = I - t_k v_k v_k',  v_k = (0, .., 0, 1, ..)        makes column k zero below the diagonal
//   Q = H_0 H_1 .. H_(n-1) D,  D the signs of R's diagonal
//
// The matrix lies column by column, so that threads side by side read what lies side by side. Columns are done in panels of
// 8: the reflections of a panel, made from its own columns alone, go to all others in one reading and one writing of each.
// With d_c = v_c'x of the column as it was, what reflection c subtracts is y_c v_c, where
//
//   y_c = t_c (d_c - sum over j < c of (v_c'v_j) y_j)
//
// so the 8 dot products of one pass over x are enough. The same goes to the columns of I, which become those of Q': its rows, as
// they are written. A column that is zero below the diagonal has t = 0, so a matrix of zeros has Q = I.
#include "common.cuh"

enum { PANEL = 8, LANES = 8 };

// Over the lanes of a group that does one column.
__device__ __forceinline__ double group_sum(double x) {
    for (int step = LANES / 2; step > 0; step >>= 1) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// What the threads of a block share of a panel.
struct Reflections {
    double t[PANEL], sign[PANEL], products[PANEL][PANEL];
    double parts[32];
};

// Makes the reflection of column k, number c of its panel, which takes the column's place with zeros above, and does it to
// the later columns of the panel; with the earlier ones it gives the products.
__device__ __forceinline__ void reflect(Reflections& shared, double* a, int n, int start, int width, int c) {
    int k = start + c, lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    double* v = a + (size_t)k * n;
    double top = v[k], sum = 0.0;
    for (int i = k + 1 + threadIdx.x; i < n; i += blockDim.x) sum += v[i] * v[i];
    sum = block_sum(sum, shared.parts);
    double diagonal = top, t = 0.0, scale = 0.0;
    if (sum != 0.0) {
        diagonal = -copysign(sqrt(top * top + sum), top);
        t = (diagonal - top) / diagonal;
        scale = 1.0 / (top - diagonal);
    }
    for (int i = start + threadIdx.x; i < n; i += blockDim.x) v[i] = i < k ? 0.0 : i == k ? 1.0 : v[i] * scale;
    if (threadIdx.x == 0) {
        shared.t[c] = t;
        shared.sign[c] = diagonal < 0.0 ? -1.0 : 1.0;
    }
    __syncthreads();
    for (int other = warp; other < width; other += warps) {
        if (other == c) continue;
        double* x = a + (size_t)(start + other) * n;
        double dot = 0.0;
        for (int i = k + lane; i < n; i += 32) dot += v[i] * x[i];
        dot = warp_sum(dot);
        if (other > c) {
            for (int i = k + lane; i < n; i += 32) x[i] -= t * dot * v[i];
        } else if (lane == 0) {
            shared.products[c][other] = dot;
        }
    }
    __syncthreads();
}

// Does a panel to the columns after it, and to those of Q'; its rows of Q' get their signs.
__device__ __forceinline__ void apply(const Reflections& shared, double* a, double* q, int n, int start, int width) {
    int lane = threadIdx.x & (LANES - 1), group = threadIdx.x / LANES, groups = blockDim.x / LANES;
    int after = start + width, rest = n - after;
    const double* v = a + (size_t)start * n;
    // lanes of a warp shuffle together, so all go as far as the last column
    for (int first = 0; first < rest + n; first += groups) {
        int column = first + group;
        bool of_q = column >= rest;
        double* x = of_q ? q + (size_t)(column - rest) * n : a + (size_t)(after + column) * n;
        int begin = column < rest + n ? start + lane : n;
        double y[PANEL] = {0.0};
        for (int i = begin; i < n; i += LANES) {
            double value = x[i];
#pragma unroll
            for (int c = 0; c < PANEL; c++) y[c] += v[(size_t)c * n + i] * value;
        }
#pragma unroll
        for (int c = 0; c < PANEL; c++) {
            double dot = group_sum(y[c]);
#pragma unroll
            for (int j = 0; j < c; j++) dot -= shared.products[c][j] * y[j];
            y[c] = shared.t[c] * dot;
        }
        for (int i = begin; i < n; i += LANES) {
            double value = x[i];
#pragma unroll
            for (int c = 0; c < PANEL; c++) value -= v[(size_t)c * n + i] * y[c];
            x[i] = of_q && i < after ? shared.sign[i - start] * value : value;
        }
    }
    __syncthreads();
}

// q[b] = the orthogonal factor of x[b], both [n, n]; work: for each n * n doubles, and as many with n rounded up to
// whole panels.
extern "C" __global__ void qr_q_f32(float* q, const float* x, double* work, int n) {
    __shared__ Reflections shared;
    int padded = (n + PANEL - 1) / PANEL * PANEL;
    size_t size = (size_t)n * n, wide = (size_t)n * padded;
    const float* from = x + blockIdx.x * size;
    float* to = q + blockIdx.x * size;
    double *columns = work + blockIdx.x * (wide + size), *rows = columns + wide;
    for (size_t i = threadIdx.x; i < size; i += blockDim.x) {
        size_t row = i / n, column = i - row * n;
        columns[column * n + row] = from[i];
        rows[i] = row == column ? 1.0 : 0.0;
    }
    // what the last panel lacks are columns of zeros, which reflect nothing
    for (size_t i = size + threadIdx.x; i < wide; i += blockDim.x) columns[i] = 0.0;
    if (threadIdx.x < PANEL * PANEL) shared.products[threadIdx.x / PANEL][threadIdx.x % PANEL] = 0.0;
    __syncthreads();
    for (int start = 0; start < n; start += PANEL) {
        int width = min((int)PANEL, n - start);
        if (threadIdx.x >= width && threadIdx.x < PANEL) shared.t[threadIdx.x] = 0.0;
        for (int c = 0; c < width; c++) reflect(shared, columns, n, start, width, c);
        apply(shared, columns, rows, n, start, width);
    }
    for (size_t i = threadIdx.x; i < size; i += blockDim.x) to[i] = (float)rows[i];
}
