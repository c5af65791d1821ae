// One pass over a parameter, its state and its gradient; formulas in the files of the optimizers. The elements
// frozen_from .. frozen_to (the row of <pad>) are left alone. All have the same arguments, used as far as needed.
#include "common.cuh"

#define ARGS                                                                                                           \
    (float *a, float *b, float *c, const float *g, size_t n, size_t frozen_from, size_t frozen_to, float s0, float s1, \
     float s2, float s3, float s4, float s5, float s6, float s7, float s8)

#define EACH_ELEMENT                                                                                                   \
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;                                                          \
    if (i >= n || (i >= frozen_from && i < frozen_to)) return;

// a = w, b = m, c = v; coupled decay, 1 - beta1, beta2, 1 - beta2, eps, root correction, shrink, rate
extern "C" __global__ void adam_f32 ARGS {
    EACH_ELEMENT
    float w = a[i], gradient = g[i] + s0 * w;
    float m = b[i] + s1 * (gradient - b[i]);
    float v = s2 * c[i] + s3 * (gradient * gradient);
    b[i] = m;
    c[i] = v;
    a[i] = w - (s6 * w + s7 * (m / (sqrtf(v) / s5 + s4)));
}

// a = y, b = z, c = v; beta2, 1 - beta2, eps, root correction, decay at y, decay at z, share, rate of y, rate
extern "C" __global__ void schedule_free_f32 ARGS {
    EACH_ELEMENT
    float y = a[i], z = b[i];
    float v = s0 * c[i] + s1 * (g[i] * g[i]);
    float d = g[i] / (sqrtf(v) / s3 + s2) + (s4 * y + s5 * z);
    c[i] = v;
    a[i] = y + s6 * (z - y) + s7 * d;
    b[i] = z - s8 * d;
}

// a = w; rate, decay
extern "C" __global__ void sgd_f32 ARGS {
    EACH_ELEMENT
    a[i] -= s0 * (g[i] + s1 * a[i]);
}

// a = w, b = buffer; rate, decay, momentum, share of the gradient, weights of gradient and buffer in the step
extern "C" __global__ void momentum_f32 ARGS {
    EACH_ELEMENT
    float gradient = g[i] + s1 * a[i];
    float buffer = s2 * b[i] + s3 * gradient;
    b[i] = buffer;
    a[i] -= s0 * (s4 * gradient + s5 * buffer);
}

// a goes a share of the way to g.
extern "C" __global__ void toward_f32 ARGS {
    EACH_ELEMENT
    a[i] += s0 * (g[i] - a[i]);
}

// a += g
extern "C" __global__ void sum_f32 ARGS {
    EACH_ELEMENT
    a[i] += g[i];
}

// a -= shrink * a + rate * g
extern "C" __global__ void descend_f32 ARGS {
    EACH_ELEMENT
    a[i] -= s0 * a[i] + s1 * g[i];
}

// parts[block] = sum of squares of a share of x, in double and in a fixed order; 256 threads.
extern "C" __global__ void squares_f32(double* parts, const float* x, size_t n) {
    __shared__ double sums[256];
    double sum = 0.0;
    for (size_t i = (size_t)blockIdx.x * 256 + threadIdx.x; i < n; i += (size_t)gridDim.x * 256)
        sum += (double)x[i] * (double)x[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = 128; step > 0; step >>= 1) {
        if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) parts[blockIdx.x] = sums[0];
}

// totals[block] = sum of parts[starts[block]] .. parts[starts[block + 1]], in their order; a thread a block.
extern "C" __global__ void totals_f32(double* totals, const double* parts, const int* starts) {
    double sum = 0.0;
    for (int i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) sum += parts[i];
    totals[blockIdx.x] = sum;
}
