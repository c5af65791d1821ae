// One pass over parameters, their state and their gradients; formulas in the files of the optimizers. A launch does a list
// of tensors: blocks of 256 threads, each for 4096 elements of one of them.
#include "common.cuh"

enum { CHUNK = 4096 };

// A tensor with its state; as Item in optimizer.rs. The elements frozen_from .. frozen_to (the row of <pad>) are left
// alone. Kernels use of it what they need.
struct Item {
    float *a, *b, *c;
    const float* g;
    size_t n, frozen_from, frozen_to;
    float s[9];
    int first_block;
};

#define ARGS (const Item* items, int count)

// Runs what follows for each element i of the block's share of an item.
#define EACH_ELEMENT                                                                                                   \
    const Item item = item_of_block(items, count);                                                                     \
    size_t first = (size_t)(blockIdx.x - item.first_block) * CHUNK, last = min(first + CHUNK, item.n);                 \
    for (size_t i = first + threadIdx.x; i < last; i += blockDim.x)                                                    \
        if (i < item.frozen_from || i >= item.frozen_to)

// a = w, b = m, c = v; coupled decay, 1 - beta1, beta2, 1 - beta2, eps, root correction, shrink, rate
extern "C" __global__ void adam_f32 ARGS {
    EACH_ELEMENT {
        float w = item.a[i], gradient = item.g[i] + item.s[0] * w;
        float m = item.b[i] + item.s[1] * (gradient - item.b[i]);
        float v = item.s[2] * item.c[i] + item.s[3] * (gradient * gradient);
        item.b[i] = m;
        item.c[i] = v;
        item.a[i] = w - (item.s[6] * w + item.s[7] * (m / (sqrtf(v) / item.s[5] + item.s[4])));
    }
}

// a = y, b = z, c = v; beta2, 1 - beta2, eps, root correction, decay at y, decay at z, share, rate of y, rate
extern "C" __global__ void schedule_free_f32 ARGS {
    EACH_ELEMENT {
        float y = item.a[i], z = item.b[i];
        float v = item.s[0] * item.c[i] + item.s[1] * (item.g[i] * item.g[i]);
        float d = item.g[i] / (sqrtf(v) / item.s[3] + item.s[2]) + (item.s[4] * y + item.s[5] * z);
        item.c[i] = v;
        item.a[i] = y + item.s[6] * (z - y) + item.s[7] * d;
        item.b[i] = z - item.s[8] * d;
    }
}

// a = w; rate, decay
extern "C" __global__ void sgd_f32 ARGS {
    EACH_ELEMENT {
        item.a[i] -= item.s[0] * (item.g[i] + item.s[1] * item.a[i]);
    }
}

// a = w, b = buffer; rate, decay, momentum, share of the gradient, weights of gradient and buffer in the step
extern "C" __global__ void momentum_f32 ARGS {
    EACH_ELEMENT {
        float gradient = item.g[i] + item.s[1] * item.a[i];
        float buffer = item.s[2] * item.b[i] + item.s[3] * gradient;
        item.b[i] = buffer;
        item.a[i] -= item.s[0] * (item.s[4] * gradient + item.s[5] * buffer);
    }
}

// a goes a share of the way to g.
extern "C" __global__ void toward_f32 ARGS {
    EACH_ELEMENT {
        item.a[i] += item.s[0] * (item.g[i] - item.a[i]);
    }
}

// a += g
extern "C" __global__ void sum_f32 ARGS {
    EACH_ELEMENT {
        item.a[i] += item.g[i];
    }
}

// a *= s0
extern "C" __global__ void scale_f32 ARGS {
    EACH_ELEMENT { item.a[i] *= item.s[0]; }
}

// parts[block] = sum of squares of g over the block's share of an item, in double and in a fixed order.
extern "C" __global__ void squares_f32(double* parts, const Item* items, int count) {
    __shared__ double sums[32];
    double sum = 0.0;
    EACH_ELEMENT { sum += (double)item.g[i] * (double)item.g[i]; }
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// totals[item] = sum of its parts; a block of 256 threads an item.
extern "C" __global__ void totals_f32(double* totals, const double* parts, const Item* items, int count, int blocks) {
    __shared__ double sums[32];
    int first = items[blockIdx.x].first_block;
    int last = blockIdx.x + 1 < count ? items[blockIdx.x + 1].first_block : blocks;
    double sum = 0.0;
    for (int i = first + threadIdx.x; i < last; i += 256) sum += parts[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) totals[blockIdx.x] = sum;
}
