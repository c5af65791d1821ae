// The row-wise part of the output projection: losses, gradients and choices from logits (float, one block of 256 threads
// a row); formulas in cross_entropy.rs.
#include "common.cuh"

#define ROW size_t row = blockIdx.x; const float* z = logits + row * vocabulary

// A logit with its bias; the masked id counts as -infinity.
__device__ __forceinline__ float logit(const float* z, const float* bias, int j, int masked) {
    if (j == masked) return -INFINITY;
    return bias ? z[j] + bias[j] : z[j];
}

// log of the sum of exp over a row, and its largest value.
__device__ __forceinline__ float log_sum_exp(const float* z, const float* bias, int vocabulary, int masked, float* top,
                                             float* shared) {
    float own = -INFINITY;
    for (int j = threadIdx.x; j < vocabulary; j += blockDim.x) own = fmaxf(own, logit(z, bias, j, masked));
    *top = block_max(own, shared);
    float sum = 0.0f;
    for (int j = threadIdx.x; j < vocabulary; j += blockDim.x) sum += expf(logit(z, bias, j, masked) - *top);
    return *top + logf(block_sum(sum, shared));
}

// losses[row] and nlls[row]; dz (unless null) = scale * (softmax - (1 - smoothing) * label - smoothing / predictable). In
// float, dz may be the logits.
template <class T>
__device__ void cross_entropy(T* dz, float* losses, float* nlls, const float* logits, const float* bias,
                              const unsigned* labels, int vocabulary, int masked, float smoothing, float factor) {
    __shared__ float shared[32];
    ROW;
    float top;
    float lse = log_sum_exp(z, bias, vocabulary, masked, &top, shared);
    int label = (int)labels[row], predictable = vocabulary - (masked >= 0);
    float at_label = logit(z, bias, label, masked), mean = 0.0f;
    if (smoothing > 0.0f) {
        // of what the top leaves: sums of small numbers
        float sum = 0.0f;
        for (int j = threadIdx.x; j < vocabulary; j += blockDim.x)
            if (j != masked) sum += logit(z, bias, j, masked) - top;
        mean = top + block_sum(sum, shared) / predictable;
    }
    float nll = lse - at_label, uniform = lse - mean;
    if (threadIdx.x == 0) {
        nlls[row] = nll;
        losses[row] = smoothing > 0.0f ? (1.0f - smoothing) * nll + smoothing * uniform : nll;
    }
    __syncthreads();  // all have read the logit of the label
    if (dz) {
        float spread = smoothing / predictable;
        for (int j = threadIdx.x; j < vocabulary; j += blockDim.x) {
            float d = expf(logit(z, bias, j, masked) - lse) - spread - (j == label ? 1.0f - smoothing : 0.0f);
            dz[row * vocabulary + j] = put<T>(j == masked ? 0.0f : factor * d);
        }
    }
}
FOR_BOTH(cross_entropy,
         (T* dz, float* losses, float* nlls, const float* logits, const float* bias, const unsigned* labels,
          int vocabulary, int masked, float smoothing, float factor),
         (dz, losses, nlls, logits, bias, labels, vocabulary, masked, smoothing, factor))

// logits become log-probabilities.
extern "C" __global__ void log_softmax_f32(float* logits, const float* bias, int vocabulary, int masked) {
    __shared__ float shared[32];
    ROW;
    float top;
    float lse = log_sum_exp(z, bias, vocabulary, masked, &top, shared);
    for (int j = threadIdx.x; j < vocabulary; j += blockDim.x)
        logits[row * vocabulary + j] = logit(z, bias, j, masked) - lse;
}

// The k best ids of each row, best first, equal ones by id, with their log-probabilities; -infinity where there are no
// more, or where the distribution is not finite. One pass over the row for each.
extern "C" __global__ void top_f32(unsigned* ids, float* values, const float* logits, const float* bias, int vocabulary,
                                   int masked, int k) {
    __shared__ float shared[32];
    __shared__ float best_values[256];
    __shared__ int best_ids[256];
    ROW;
    float top;
    float lse = log_sum_exp(z, bias, vocabulary, masked, &top, shared);
    bool finite = lse > -INFINITY && lse < INFINITY;
    float last = INFINITY;
    int last_id = -1;
    for (int n = 0; n < k; n++) {
        float value = -INFINITY;
        int id = vocabulary;
        for (int j = threadIdx.x; j < vocabulary; j += blockDim.x) {
            float x = logit(z, bias, j, masked);
            bool after = x < last || (x == last && j > last_id);
            if (after && x > value) {
                value = x;
                id = j;
            }
        }
        best_values[threadIdx.x] = value;
        best_ids[threadIdx.x] = id;
        __syncthreads();
        for (int step = blockDim.x / 2; step > 0; step >>= 1) {
            if (threadIdx.x < step) {
                float other = best_values[threadIdx.x + step];
                int other_id = best_ids[threadIdx.x + step];
                bool better = other > best_values[threadIdx.x] ||
                              (other == best_values[threadIdx.x] && other_id < best_ids[threadIdx.x]);
                if (better) {
                    best_values[threadIdx.x] = other;
                    best_ids[threadIdx.x] = other_id;
                }
            }
            __syncthreads();
        }
        last = best_values[0];
        last_id = best_ids[0];
        if (threadIdx.x == 0) {
            bool found = finite && last > -INFINITY;
            ids[row * k + n] = found ? (unsigned)last_id : 0u;
            values[row * k + n] = found ? last - lse : -INFINITY;
        }
        __syncthreads();
    }
}
