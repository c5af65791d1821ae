// Attention of single queries while decoding; formulas in step_attention.rs. A block of one warp does one head of one
// hypothesis; lane l scores key l of each 32.
#include "common.cuh"

// `key(j)` and `value(j)` give the rows of the j-th key; K * 32 columns at most.
template <class T, int K, class Rows>
__device__ void attend(T* o, const T* q, const Rows& rows, int count, int heads, int columns, float factor) {
    int lane = threadIdx.x, head = blockIdx.y, width = heads * columns;
    size_t start = (size_t)blockIdx.x * width + head * columns;
    float top = -INFINITY, total = 0.0f, sums[K];
    for (int n = 0; n < K; n++) sums[n] = 0.0f;
    for (int first = 0; first < count; first += 32) {
        int j = first + lane;
        float score = -INFINITY;
        if (j < count) {
            const T* key = rows.key(j) + head * columns;
            score = 0.0f;
            for (int c = 0; c < columns; c++) score += to_float(q[start + c]) * to_float(key[c]);
            score *= factor;
        }
        float higher = fmaxf(top, warp_max(score));
        float shrink = expf(top - higher), p = j < count ? expf(score - higher) : 0.0f;
        total = total * shrink + warp_sum(p);
        top = higher;
        for (int n = 0; n < K; n++) sums[n] *= shrink;
        for (int row = 0; row < min(32, count - first); row++) {
            float weight = __shfl_sync(0xffffffffu, p, row);
            const T* value = rows.value(first + row) + head * columns;
            for (int n = 0; n < K; n++) {
                int c = lane + 32 * n;
                if (c < columns) sums[n] += weight * to_float(value[c]);
            }
        }
    }
    for (int n = 0; n < K; n++) {
        int c = lane + 32 * n;
        if (c < columns) o[start + c] = put<T>(count ? sums[n] / total : 0.0f);
    }
}

// Rows links[j] of one tensor for each earlier step j, whose addresses are given.
template <class T> struct Linked {
    const unsigned long long *keys, *values;
    const unsigned* links;
    int width;
    __device__ const T* key(int j) const { return (const T*)keys[j] + (size_t)links[j] * width; }
    __device__ const T* value(int j) const { return (const T*)values[j] + (size_t)links[j] * width; }
};

// Consecutive rows.
template <class T> struct Consecutive {
    const T *keys, *values;
    int width;
    __device__ const T* key(int j) const { return keys + (size_t)j * width; }
    __device__ const T* value(int j) const { return values + (size_t)j * width; }
};

// links: [rows, steps]. Grid: (rows, heads).
template <class T>
__device__ void attend_history(T* o, const T* q, const unsigned long long* keys, const unsigned long long* values,
                               const unsigned* links, int steps, int heads, int columns, float factor) {
    Linked<T> rows = {keys, values, links + (size_t)blockIdx.x * steps, heads * columns};
    attend<T, 8>(o, q, rows, steps, heads, columns, factor);
}
FOR_BOTH(attend_history,
         (T* o, const T* q, const unsigned long long* keys, const unsigned long long* values, const unsigned* links,
          int steps, int heads, int columns, float factor),
         (o, q, keys, values, links, steps, heads, columns, factor))

// ranges: [rows, 2], first row and the row after the last. Grid: (rows, heads).
template <class T>
__device__ void attend_memory(T* o, const T* q, const T* keys, const T* values, const int* ranges, int heads,
                              int columns, float factor) {
    int width = heads * columns, first = ranges[2 * blockIdx.x], count = ranges[2 * blockIdx.x + 1] - first;
    Consecutive<T> rows = {keys + (size_t)first * width, values + (size_t)first * width, width};
    attend<T, 8>(o, q, rows, count, heads, columns, factor);
}
FOR_BOTH(attend_memory,
         (T* o, const T* q, const T* keys, const T* values, const int* ranges, int heads, int columns, float factor),
         (o, q, keys, values, ranges, heads, columns, factor))
