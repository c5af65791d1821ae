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

// The cost of a row of logits; its log of the sum of exp and its unsmoothed cost besides.
__device__ __forceinline__ float cost(const float* z, const float* bias, int vocabulary, int masked, int label,
                                      float smoothing, float* lse, float* nll, float* shared) {
    float top;
    *lse = log_sum_exp(z, bias, vocabulary, masked, &top, shared);
    *nll = *lse - logit(z, bias, label, masked);
    if (smoothing <= 0.0f) return *nll;
    // of what the top leaves: sums of small numbers
    float sum = 0.0f;
    for (int j = threadIdx.x; j < vocabulary; j += blockDim.x)
        if (j != masked) sum += logit(z, bias, j, masked) - top;
    float mean = top + block_sum(sum, shared) / (vocabulary - (masked >= 0));
    return (1.0f - smoothing) * *nll + smoothing * (*lse - mean);
}

// What the gradient of a row takes from the probability of id j.
__device__ __forceinline__ float wanted(int j, int label, int vocabulary, int masked, float smoothing) {
    return smoothing / (vocabulary - (masked >= 0)) + (j == label ? 1.0f - smoothing : 0.0f);
}

// losses[row] and nlls[row]; dz (unless null) = factor * (softmax - wanted). In float, dz may be the logits.
template <class T>
__device__ void cross_entropy(T* dz, float* losses, float* nlls, const float* logits, const float* bias,
                              const unsigned* labels, int vocabulary, int masked, float smoothing, float factor) {
    __shared__ float shared[32];
    ROW;
    int label = (int)labels[row];
    float lse, nll;
    float loss = cost(z, bias, vocabulary, masked, label, smoothing, &lse, &nll, shared);
    if (threadIdx.x == 0) {
        nlls[row] = nll;
        losses[row] = loss;
    }
    __syncthreads();  // all have read the logit of the label
    if (dz) {
        for (int j = threadIdx.x; j < vocabulary; j += blockDim.x) {
            float d = expf(logit(z, bias, j, masked) - lse) - wanted(j, label, vocabulary, masked, smoothing);
            dz[row * vocabulary + j] = put<T>(j == masked ? 0.0f : factor * d);
        }
    }
}
FOR_BOTH(cross_entropy,
         (T* dz, float* losses, float* nlls, const float* logits, const float* bias, const unsigned* labels,
          int vocabulary, int masked, float smoothing, float factor),
         (dz, losses, nlls, logits, bias, labels, vocabulary, masked, smoothing, factor))

// The same of two rows, `row` and `row + tokens`, one block for both, with R-Drop: means of losses and nlls, kls[row] the mean
// of KL(p|q) and KL(q|p).
template <class T>
__device__ void r_drop(T* dz, float* losses, float* nlls, float* kls, const float* logits, const float* bias,
                       const unsigned* labels, int tokens, int vocabulary, int masked, float smoothing,
                       float half_alpha, float factor) {
    __shared__ float shared[32];
    ROW;
    size_t second = (size_t)tokens * vocabulary;
    int label = (int)labels[row];
    float lse_p, lse_q, nll_p, nll_q, kl_p = 0.0f, kl_q = 0.0f;
    float loss_p = cost(z, bias, vocabulary, masked, label, smoothing, &lse_p, &nll_p, shared);
    float loss_q = cost(z + second, bias, vocabulary, masked, label, smoothing, &lse_q, &nll_q, shared);
    for (int j = threadIdx.x; j < vocabulary; j += blockDim.x)
        if (j != masked) {
            float p = logit(z, bias, j, masked) - lse_p, q = logit(z + second, bias, j, masked) - lse_q;
            kl_p += expf(p) * (p - q);
            kl_q += expf(q) * (q - p);
        }
    kl_p = block_sum(kl_p, shared);
    kl_q = block_sum(kl_q, shared);
    if (threadIdx.x == 0) {
        nlls[row] = 0.5f * (nll_p + nll_q);
        losses[row] = 0.5f * (loss_p + loss_q);
        kls[row] = 0.5f * (kl_p + kl_q);
    }
    __syncthreads();  // all have read the logits of the label
    if (dz) {
        for (int j = threadIdx.x; j < vocabulary; j += blockDim.x) {
            float log_p = logit(z, bias, j, masked) - lse_p, log_q = logit(z + second, bias, j, masked) - lse_q;
            float p = expf(log_p), q = expf(log_q), less = wanted(j, label, vocabulary, masked, smoothing);
            float dp = p - less + half_alpha * (p * (log_p - log_q - kl_p) + p - q);
            float dq = q - less + half_alpha * (q * (log_q - log_p - kl_q) + q - p);
            dz[row * vocabulary + j] = put<T>(j == masked ? 0.0f : 0.5f * factor * dp);
            dz[second + row * vocabulary + j] = put<T>(j == masked ? 0.0f : 0.5f * factor * dq);
        }
    }
}
FOR_BOTH(r_drop,
         (T* dz, float* losses, float* nlls, float* kls, const float* logits, const float* bias,
          const unsigned* labels, int tokens, int vocabulary, int masked, float smoothing, float half_alpha,
          float factor),
         (dz, losses, nlls, kls, logits, bias, labels, tokens, vocabulary, masked, smoothing, half_alpha, factor))

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
