// Inverses of small symmetric positive definite matrices in double, a block of threads a matrix: the factor column by column,
// then a column of the inverse for each thread.
#include "common.cuh"

// inverse[b] = x[b]^-1, both [n, n]; all NaN where x[b] is not positive definite to working accuracy. work: [n, n] for each.
extern "C" __global__ void cholesky_inverse_f64(double* inverse, const double* x, double* work, int n) {
    __shared__ double pivot;
    size_t size = (size_t)n * n;
    const double* a = x + blockIdx.x * size;
    double *to = inverse + blockIdx.x * size, *l = work + blockIdx.x * size;
    for (size_t i = threadIdx.x; i < size; i += blockDim.x) l[i] = a[i];
    __syncthreads();
    bool good = true;
    for (int j = 0; j < n; j++) {
        if (threadIdx.x == 0) {
            double rest = l[(size_t)j * n + j];
            // what is NaN or infinite fails here as well
            pivot = rest > 2.220446049250313e-16 * a[(size_t)j * n + j] && rest < 1.7e308 ? sqrt(rest) : 0.0;
        }
        __syncthreads();
        good = pivot > 0.0;
        if (!good) break;
        for (int i = j + threadIdx.x; i < n; i += blockDim.x) {
            l[(size_t)i * n + j] = i == j ? pivot : l[(size_t)i * n + j] / pivot;
        }
        __syncthreads();
        for (int i = j + 1 + threadIdx.x; i < n; i += blockDim.x) {
            double left = l[(size_t)i * n + j];
            for (int k = j + 1; k <= i; k++) l[(size_t)i * n + k] -= left * l[(size_t)k * n + j];
        }
        __syncthreads();
    }
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
        // columns of `to` are contiguous over threads: element (i, c)
        for (int i = 0; i < n; i++) {
            double rest = i == c ? 1.0 : 0.0;
            if (!good) {
                to[(size_t)i * n + c] = nan("");
                continue;
            }
            for (int k = c; k < i; k++) rest -= l[(size_t)i * n + k] * to[(size_t)k * n + c];
            to[(size_t)i * n + c] = i < c ? 0.0 : rest / l[(size_t)i * n + i];
        }
        for (int i = n - 1; good && i >= 0; i--) {
            double rest = to[(size_t)i * n + c];
            for (int k = i + 1; k < n; k++) rest -= l[(size_t)k * n + i] * to[(size_t)k * n + c];
            to[(size_t)i * n + c] = rest / l[(size_t)i * n + i];
        }
    }
}
