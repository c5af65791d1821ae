// The element-wise ends of linear.rs: bias, activation and dropout after the product, and their derivative before the
// products of the backward pass.
#include "common.cuh"

enum { IDENTITY, RELU, GELU, SWISH, TANH };

__device__ __forceinline__ float normal_cdf(float z) { return 0.5f * (1.0f + erff(z * 0.70710678118654752f)); }

__device__ __forceinline__ float activate(float z, int activation) {
    switch (activation) {
    case RELU: return z < 0.0f ? 0.0f : z;  // NaN stays NaN
    case GELU: return z * normal_cdf(z);
    case SWISH: return z * sigmoid(z);
    case TANH: return tanhf(z);
    default: return z;
    }
}

// phi'(z); for RELU z may be y.
__device__ __forceinline__ float derivative(float z, int activation) {
    switch (activation) {
    case RELU: return z > 0.0f ? 1.0f : 0.0f;
    case GELU: return normal_cdf(z) + z * expf(-0.5f * z * z) * 0.39894228040143270f;
    case SWISH: {
        float s = sigmoid(z);
        return s * (1.0f + z * (1.0f - s));
    }
    case TANH: {
        float t = tanhf(z);
        return 1.0f - t * t;
    }
    default: return 1.0f;
    }
}

// y holds x*W' and becomes dropout(phi(y + bias)); saved (or null) keeps y + bias.
template <class T>
__device__ void finish(T* y, const float* bias, T* saved, size_t n, int width, int activation, MASK_ARGS) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float z = to_float(y[i]);
    if (bias) z += bias[i % width];
    if (saved) saved[i] = put<T>(z);
    y[i] = put<T>(activate(z, activation) * mask_factor(MASK_PASS, (unsigned)i));
}
FOR_BOTH(finish, (T* y, const float* bias, T* saved, size_t n, int width, int activation, MASK_ARGS),
         (y, bias, saved, n, width, activation, MASK_PASS))

// dz = dy * mask * phi'(z)
template <class T> __device__ void differentiate(T* dz, const T* dy, const T* z, size_t n, int activation, MASK_ARGS) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float d = to_float(dy[i]) * mask_factor(MASK_PASS, (unsigned)i);
    dz[i] = put<T>(d * derivative(to_float(z[i]), activation));
}
FOR_BOTH(differentiate, (T* dz, const T* dy, const T* z, size_t n, int activation, MASK_ARGS),
         (dz, dy, z, n, activation, MASK_PASS))
