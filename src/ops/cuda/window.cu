// hvr's passes over parameters and the windows of their last gradients; formulas in optim/hvr/passes.rs. A launch does a
// list of tensors: blocks of 256 threads, each for 4096 elements of one of them.
#include "common.cuh"

enum { CHUNK = 4096 };

// A tensor of n elements with its moments, its window gamma (slots x n) and a weight for each slot; as Item in window.rs.
// The weights w from frozen_from to frozen_to (the row of <pad>) stay. Kernels use of it what they need. Its name is not
// that of optimizer.cu's: both are arguments of a template.
struct Windowed {
    float *w, *m, *v, *gamma;
    const float *g, *weights;
    size_t n, frozen_from, frozen_to;
    float s[8];
    int slots, next, normalized, first_block;
};

#define ARGS const Windowed* items, int count

// The block's share of an item is first .. last.
#define SHARE                                                                                                          \
    const Windowed item = item_of_block(items, count);                                                                 \
    size_t first = (size_t)(blockIdx.x - item.first_block) * CHUNK, last = min(first + CHUNK, item.n)

#define EACH_ELEMENT for (size_t i = first + threadIdx.x; i < last; i += blockDim.x)

// w[i] -= rate*u + shrink*w[i]
__device__ __forceinline__ void descend(const Windowed& item, size_t i, float rate, float u, float shrink) {
    if (i < item.frozen_from || i >= item.frozen_to) item.w[i] -= rate * u + shrink * item.w[i];
}

// sqrt(v^) + eps of Adam; the scalars of observe and apply are
// 1 - beta1, beta2, 1 - beta2, eps, root correction, scale of m, rate, shrink
__device__ __forceinline__ float divisor(const Windowed& item, float v) { return sqrtf(v) / item.s[4] + item.s[3]; }

// Moments forward. parts[block] = h*h, the square of Adam's direction, each slot times q, each slot times h (of `stride`
// numbers), in double.
extern "C" __global__ void window_observe_f32(double* parts, ARGS, int stride) {
    __shared__ float q[CHUNK], h[CHUNK];
    __shared__ double sums[32];
    SHARE;
    double square = 0.0, adam = 0.0;
    EACH_ELEMENT {
        float g = item.g[i];
        float m = item.m[i] + item.s[0] * (g - item.m[i]);
        float v = item.s[1] * item.v[i] + item.s[2] * (g * g);
        item.m[i] = m;
        item.v[i] = v;
        float root = divisor(item, v), direction = item.s[5] * m;
        float now = item.normalized ? g / root : g;
        q[i - first] = item.normalized ? direction / root : direction;
        h[i - first] = now;
        square += (double)now * now;
        adam += (double)(direction / root) * (direction / root);
    }
    double* own = parts + (size_t)blockIdx.x * stride;
    square = block_sum(square, sums);
    adam = block_sum(adam, sums);
    if (threadIdx.x == 0) {
        own[0] = square;
        own[1] = adam;
    }
    for (int slot = 0; slot < item.slots; slot++) {
        const float* column = item.gamma + slot * item.n;
        double of_q = 0.0, of_h = 0.0;
        // a thread reads what it wrote itself
        EACH_ELEMENT {
            of_q += (double)column[i] * q[i - first];
            of_h += (double)column[i] * h[i - first];
        }
        of_q = block_sum(of_q, sums);
        of_h = block_sum(of_h, sums);
        if (threadIdx.x == 0) {
            own[2 + slot] = of_q;
            own[2 + item.slots + slot] = of_h;
        }
    }
}

// totals[item] = sums of its parts, in a fixed order; block (x, y) does number x of item y.
extern "C" __global__ void window_totals_f32(double* totals, const double* parts, ARGS, int stride, int blocks) {
    __shared__ double sums[32];
    if (blockIdx.x >= 2 + 2 * items[blockIdx.y].slots) return;
    int first = items[blockIdx.y].first_block;
    int last = blockIdx.y + 1 < count ? items[blockIdx.y + 1].first_block : blocks;
    double sum = 0.0;
    for (int i = first + threadIdx.x; i < last; i += blockDim.x) sum += parts[(size_t)i * stride + blockIdx.x];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) totals[(size_t)blockIdx.y * stride + blockIdx.x] = sum;
}

// The direction from q (in Adam's space only) and the old window, the step, and h into slot `next`.
extern "C" __global__ void window_apply_f32(ARGS) {
    SHARE;
    EACH_ELEMENT {
        float root = item.normalized ? divisor(item, item.v[i]) : 1.0f;
        float u = item.normalized ? item.s[5] * item.m[i] / root : 0.0f;
        for (int slot = 0; slot < item.slots; slot++)
            if (item.weights[slot] != 0.0f) u += item.weights[slot] * item.gamma[slot * item.n + i];
        if (item.slots > 0) item.gamma[item.next * item.n + i] = item.g[i] / root;
        descend(item, i, item.s[6], u, item.s[7]);
    }
}

// parts[block] = largest and sum of the squares' sums over the window, the gradient in slot `next`.
extern "C" __global__ void window_extent_f32(double* parts, ARGS) {
    __shared__ float largest[32];
    __shared__ double sums[32];
    SHARE;
    float most = 0.0f;
    double sum = 0.0;
    EACH_ELEMENT {
        float h = item.g[i] * item.g[i];
        for (int slot = 0; slot < item.slots; slot++) {
            float x = item.gamma[slot * item.n + i];
            if (slot != item.next) h += x * x;
        }
        most = fmaxf(most, h);
        sum += h;
    }
    most = block_max(most, largest);
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        parts[2 * (size_t)blockIdx.x] = most;
        parts[2 * (size_t)blockIdx.x + 1] = sum;
    }
}

// diag; eps, share, below, by, rate, shrink
extern "C" __global__ void window_diagonal_f32(ARGS) {
    SHARE;
    EACH_ELEMENT {
        item.gamma[item.next * item.n + i] = item.g[i];
        float m = 0.0f, h = 0.0f;
        for (int slot = 0; slot < item.slots; slot++) {
            if (item.weights[slot] == 0.0f) continue;
            float x = item.gamma[slot * item.n + i];
            m += item.weights[slot] * x;
            h += x * x;
        }
        h *= item.s[1];
        if (h < item.s[2]) h = item.s[3];
        descend(item, i, item.s[4], m / (sqrtf(h) + item.s[0]), item.s[5]);
    }
}

// diag-literal; 1 - beta1, scale of m, share, rate, shrink
extern "C" __global__ void window_diagonal_literal_f32(ARGS) {
    SHARE;
    EACH_ELEMENT {
        float g = item.g[i], h = 0.0f;
        for (int slot = 0; slot < item.slots; slot++) {
            float x = item.gamma[slot * item.n + i];
            h += x * x;
        }
        float m = item.m[i] + item.s[0] * (g - item.m[i]);
        item.m[i] = m;
        item.gamma[item.next * item.n + i] = g;
        descend(item, i, item.s[3], item.s[2] * h * (item.s[1] * m), item.s[4]);
    }
}
