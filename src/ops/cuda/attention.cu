// Softmax attention of packed sentences; formulas in attention.rs. A block does one head of one sentence, a warp one row
// (a query, or a key for the gradients of keys and values) at a time, against tiles of 32 rows of the other side in
// shared memory. Lane l scores row l of the tile, then owns columns l, l + 32, ... of the result: K of them, so a head
// has at most 32*K columns.
#include "common.cuh"

enum { WARPS = 8, TILE = 32 };

// One side of the product: `columns` numbers from `start` (plus head * columns) of rows of `stride`.
template <class T>
__device__ __forceinline__ const T* row_of(const T* x, int row, int stride, int start, int head, int columns) {
    return x + (size_t)row * stride + start + (size_t)head * columns;
}

// Rows first.. of the other side into shared memory, padded to an odd length against bank conflicts; rows beyond the
// sentence are zeros.
template <class T>
__device__ __forceinline__ void load_tile(float* tile, const T* x, int first, int count, int stride, int start, int head,
                                          int columns) {
    int padded = columns | 1;
    for (int i = threadIdx.x; i < TILE * columns; i += blockDim.x) {
        int row = i / columns, column = i % columns;
        tile[row * padded + column] =
            row < count ? to_float(row_of(x, first + row, stride, start, head, columns)[column]) : 0.0f;
    }
}

__device__ __forceinline__ float dot(const float* a, const float* b, int n) {
    float sum = 0.0f;
    for (int i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// o and lse. Grid: (sentence * heads, blocks of WARPS queries); shared: two tiles and a query a warp. Offsets are those
// of sentences in queries and keys; pairs[s]: (query, key) pairs of the sentences before s, the place of the mask.
template <class T, int K>
__device__ void forward(T* o, float* lse, const T* q, const T* k, const T* v, const int* q_offsets,
                        const int* k_offsets, const unsigned* pairs, int heads, int columns, int q_stride,
                        int kv_stride, int k_start, int v_start, int causal, float factor, MASK_ARGS) {
    DYNAMIC_SHARED(float, shared);
    int padded = columns | 1, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float *keys = shared, *values = keys + TILE * padded, *query = values + TILE * padded + warp * columns;
    int sentence = blockIdx.x / heads, head = blockIdx.x % heads, width = heads * columns;
    int q_first = q_offsets[sentence], queries = q_offsets[sentence + 1] - q_first;
    int k_first = k_offsets[sentence], count = k_offsets[sentence + 1] - k_first;
    for (int block = blockIdx.y * WARPS; block < queries; block += gridDim.y * WARPS) {
        int i = block + warp;
        bool works = i < queries;
        if (works)
            for (int c = lane; c < columns; c += 32)
                query[c] = to_float(row_of(q, q_first + i, q_stride, 0, head, columns)[c]);
        float top = -INFINITY, total = 0.0f, sums[K];
        for (int n = 0; n < K; n++) sums[n] = 0.0f;
        unsigned index = heads * pairs[sentence] + (unsigned)(head * queries + i) * count;
        // the last query of the block sees most
        int seen = causal ? min(count, min(block + WARPS, queries)) : count;
        for (int first = 0; first < seen; first += TILE) {
            __syncthreads();
            load_tile(keys, k, k_first + first, min(TILE, count - first), kv_stride, k_start, head, columns);
            load_tile(values, v, k_first + first, min(TILE, count - first), kv_stride, v_start, head, columns);
            __syncthreads();
            if (!works) continue;
            int j = first + lane;
            bool visible = j < count && (!causal || j <= i);
            float score = visible ? dot(query, keys + lane * padded, columns) * factor : -INFINITY;
            float higher = fmaxf(top, warp_max(score));
            if (higher == -INFINITY) continue;  // nothing visible yet
            float shrink = expf(top - higher), p = visible ? expf(score - higher) : 0.0f;
            total = total * shrink + warp_sum(p);
            top = higher;
            p *= mask_factor(MASK_PASS, index + j);
            for (int n = 0; n < K; n++) sums[n] *= shrink;
            for (int row = 0; row < TILE; row++) {
                float weight = __shfl_sync(0xffffffffu, p, row);
                for (int n = 0; n < K; n++) {
                    int c = lane + 32 * n;
                    if (c < columns) sums[n] += weight * values[row * padded + c];
                }
            }
        }
        if (works) {
            for (int n = 0; n < K; n++) {
                int c = lane + 32 * n;
                if (c < columns) o[(size_t)(q_first + i) * width + head * columns + c] = put<T>(count ? sums[n] / total : 0.0f);
            }
            if (lane == 0) lse[(size_t)q_first * heads + head * queries + i] = top + logf(total);
        }
        __syncthreads();
    }
}

// dq and d[row] = sum of dO * O, for the gradients of keys. As forward; shared: two tiles, and a query and its dO a warp.
template <class T, int K>
__device__ void backward_queries(T* dq, float* d, const T* d_o, const T* o, const float* lse, const T* q, const T* k,
                                 const T* v, const int* q_offsets, const int* k_offsets, const unsigned* pairs,
                                 int heads, int columns, int q_stride, int kv_stride, int k_start, int v_start,
                                 int causal, float factor, MASK_ARGS) {
    DYNAMIC_SHARED(float, shared);
    int padded = columns | 1, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float *keys = shared, *values = keys + TILE * padded;
    float *query = values + TILE * padded + warp * 2 * columns, *upstream = query + columns;
    int sentence = blockIdx.x / heads, head = blockIdx.x % heads, width = heads * columns;
    int q_first = q_offsets[sentence], queries = q_offsets[sentence + 1] - q_first;
    int k_first = k_offsets[sentence], count = k_offsets[sentence + 1] - k_first;
    for (int block = blockIdx.y * WARPS; block < queries; block += gridDim.y * WARPS) {
        int i = block + warp;
        bool works = i < queries;
        float mean = 0.0f, row_lse = 0.0f, sums[K];
        for (int n = 0; n < K; n++) sums[n] = 0.0f;
        if (works) {
            const T* outs = row_of(o, q_first + i, width, 0, head, columns);
            const T* douts = row_of(d_o, q_first + i, width, 0, head, columns);
            for (int c = lane; c < columns; c += 32) {
                query[c] = to_float(row_of(q, q_first + i, q_stride, 0, head, columns)[c]);
                upstream[c] = to_float(douts[c]);
                mean += upstream[c] * to_float(outs[c]);
            }
            mean = warp_sum(mean);
            size_t place = (size_t)q_first * heads + head * queries + i;
            row_lse = lse[place];
            if (lane == 0) d[place] = mean;
        }
        unsigned index = heads * pairs[sentence] + (unsigned)(head * queries + i) * count;
        int seen = causal ? min(count, min(block + WARPS, queries)) : count;
        for (int first = 0; first < seen; first += TILE) {
            __syncthreads();
            load_tile(keys, k, k_first + first, min(TILE, count - first), kv_stride, k_start, head, columns);
            load_tile(values, v, k_first + first, min(TILE, count - first), kv_stride, v_start, head, columns);
            __syncthreads();
            if (!works) continue;
            int j = first + lane;
            float ds = 0.0f;
            if (j < count && (!causal || j <= i)) {
                float p = expf(dot(query, keys + lane * padded, columns) * factor - row_lse);
                float dp = dot(upstream, values + lane * padded, columns) * mask_factor(MASK_PASS, index + j);
                ds = p * (dp - mean) * factor;
            }
            for (int row = 0; row < TILE; row++) {
                float weight = __shfl_sync(0xffffffffu, ds, row);
                for (int n = 0; n < K; n++) {
                    int c = lane + 32 * n;
                    if (c < columns) sums[n] += weight * keys[row * padded + c];
                }
            }
        }
        if (works)
            for (int n = 0; n < K; n++) {
                int c = lane + 32 * n;
                if (c < columns) dq[(size_t)(q_first + i) * q_stride + head * columns + c] = put<T>(sums[n]);
            }
        __syncthreads();
    }
}

// dk and dv, with d of backward_queries. Here a warp does a key, and tiles hold queries and dO.
template <class T, int K>
__device__ void backward_keys(T* dk, T* dv, const T* d_o, const float* d, const float* lse, const T* q, const T* k,
                              const T* v, const int* q_offsets, const int* k_offsets, const unsigned* pairs, int heads,
                              int columns, int q_stride, int kv_stride, int k_start, int v_start, int causal,
                              float factor, MASK_ARGS) {
    DYNAMIC_SHARED(float, shared);
    int padded = columns | 1, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    float *tile = shared, *upstream = tile + TILE * padded;
    float *key = upstream + TILE * padded + warp * 2 * columns, *value = key + columns;
    int sentence = blockIdx.x / heads, head = blockIdx.x % heads, width = heads * columns;
    int q_first = q_offsets[sentence], queries = q_offsets[sentence + 1] - q_first;
    int k_first = k_offsets[sentence], count = k_offsets[sentence + 1] - k_first;
    for (int block = blockIdx.y * WARPS; block < count; block += gridDim.y * WARPS) {
        int j = block + warp;
        bool works = j < count;
        float key_sums[K], value_sums[K];
        for (int n = 0; n < K; n++) key_sums[n] = value_sums[n] = 0.0f;
        if (works)
            for (int c = lane; c < columns; c += 32) {
                key[c] = to_float(row_of(k, k_first + j, kv_stride, k_start, head, columns)[c]);
                value[c] = to_float(row_of(v, k_first + j, kv_stride, v_start, head, columns)[c]);
            }
        // queries before the first key of the block see none of it
        for (int first = causal ? block / TILE * TILE : 0; first < queries; first += TILE) {
            __syncthreads();
            load_tile(tile, q, q_first + first, min(TILE, queries - first), q_stride, 0, head, columns);
            load_tile(upstream, d_o, q_first + first, min(TILE, queries - first), width, 0, head, columns);
            __syncthreads();
            if (!works) continue;
            int i = first + lane;
            float kept = 0.0f, ds = 0.0f;
            if (i < queries && (!causal || j <= i)) {
                size_t place = (size_t)q_first * heads + head * queries + i;
                unsigned index = heads * pairs[sentence] + (unsigned)(head * queries + i) * count + j;
                float keep = mask_factor(MASK_PASS, index);
                float p = expf(dot(key, tile + lane * padded, columns) * factor - lse[place]);
                float dp = dot(value, upstream + lane * padded, columns) * keep;
                kept = p * keep;
                ds = p * (dp - d[place]) * factor;
            }
            for (int row = 0; row < TILE; row++) {
                float to_value = __shfl_sync(0xffffffffu, kept, row), to_key = __shfl_sync(0xffffffffu, ds, row);
                for (int n = 0; n < K; n++) {
                    int c = lane + 32 * n;
                    if (c < columns) {
                        key_sums[n] += to_key * tile[row * padded + c];
                        value_sums[n] += to_value * upstream[row * padded + c];
                    }
                }
            }
        }
        if (works)
            for (int n = 0; n < K; n++) {
                int c = lane + 32 * n;
                size_t row = (size_t)(k_first + j) * kv_stride + head * columns + c;
                if (c < columns) {
                    dk[row + k_start] = put<T>(key_sums[n]);
                    dv[row + v_start] = put<T>(value_sums[n]);
                }
            }
        __syncthreads();
    }
}

// Heads of up to 64 and up to 256 columns.
#define FOR_HEADS(name, ARGS, CALL)                                                                                    \
    template <class T> __device__ void name##_narrow ARGS { name<T, 2> CALL; }                                         \
    template <class T> __device__ void name##_wide ARGS { name<T, 8> CALL; }                                           \
    FOR_BOTH(name##_narrow, ARGS, CALL)                                                                                \
    FOR_BOTH(name##_wide, ARGS, CALL)

FOR_HEADS(forward,
          (T* o, float* lse, const T* q, const T* k, const T* v, const int* q_offsets, const int* k_offsets,
           const unsigned* pairs, int heads, int columns, int q_stride, int kv_stride, int k_start, int v_start,
           int causal, float factor, MASK_ARGS),
          (o, lse, q, k, v, q_offsets, k_offsets, pairs, heads, columns, q_stride, kv_stride, k_start, v_start, causal,
           factor, MASK_PASS))

FOR_HEADS(backward_queries,
          (T* dq, float* d, const T* d_o, const T* o, const float* lse, const T* q, const T* k, const T* v,
           const int* q_offsets, const int* k_offsets, const unsigned* pairs, int heads, int columns, int q_stride,
           int kv_stride, int k_start, int v_start, int causal, float factor, MASK_ARGS),
          (dq, d, d_o, o, lse, q, k, v, q_offsets, k_offsets, pairs, heads, columns, q_stride, kv_stride, k_start,
           v_start, causal, factor, MASK_PASS))

FOR_HEADS(backward_keys,
          (T* dk, T* dv, const T* d_o, const float* d, const float* lse, const T* q, const T* k, const T* v,
           const int* q_offsets, const int* k_offsets, const unsigned* pairs, int heads, int columns, int q_stride,
           int kv_stride, int k_start, int v_start, int causal, float factor, MASK_ARGS),
          (dk, dv, d_o, d, lse, q, k, v, q_offsets, k_offsets, pairs, heads, columns, q_stride, kv_stride, k_start,
           v_start, causal, factor, MASK_PASS))
