// Rows of an embedding table; formulas in embed.rs.
#include "common.cuh"

// The mask over tokens, as kernels get it after that over elements.
#define WORD_ARGS unsigned word_lo, unsigned word_hi, unsigned word_threshold, float word_scale
#define WORD_PASS word_lo, word_hi, word_threshold, word_scale

// y = (factor*word*E[id] + sinusoid(position)) * mask; positions may be null; frequencies: width/2 numbers. The angle is
// reduced in double: a float has too few digits for long sentences.
template <class T>
__device__ void embed_forward(T* y, const float* table, const unsigned* ids, const int* positions,
                              const double* frequencies, int tokens, int width, float factor, MASK_ARGS,
                              WORD_ARGS) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)tokens * width) return;
    size_t token = i / width;
    int column = (int)(i % width);
    float value = table[(size_t)ids[token] * width + column] * (factor * mask_factor(WORD_PASS, (unsigned)token));
    if (positions) {
        int half = width / 2, k = column < half ? column : column - half;
        double turns = positions[token] * frequencies[k] * 0.15915494309189533577;
        float half_turns = 2.0f * (float)(turns - floor(turns));
        value += column < half ? sinpif(half_turns) : cospif(half_turns);
    }
    y[i] = put<T>(value * mask_factor(MASK_PASS, (unsigned)i));
}
FOR_BOTH(embed_forward,
         (T* y, const float* table, const unsigned* ids, const int* positions, const double* frequencies, int tokens,
          int width, float factor, MASK_ARGS, WORD_ARGS),
         (y, table, ids, positions, frequencies, tokens, width, factor, MASK_PASS, WORD_PASS))

// gradient[id] = sum of factor * word * dy * mask over the tokens of each id that occurs, in their order. Block (x, y): columns
// y*128.. of id x; starts[x]..starts[x + 1] are its places in `tokens`. No atomics: the same bits each time.
template <class T>
__device__ void embed_backward(float* gradient, const T* dy, const unsigned* ids, const int* starts, const int* tokens,
                               int width, float factor, MASK_ARGS, WORD_ARGS) {
    int column = blockIdx.y * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = 0.0f;
    for (int k = starts[blockIdx.x]; k < starts[blockIdx.x + 1]; k++) {
        size_t i = (size_t)tokens[k] * width + column;
        float word = mask_factor(WORD_PASS, (unsigned)tokens[k]);
        sum += to_float(dy[i]) * word * mask_factor(MASK_PASS, (unsigned)i);
    }
    gradient[(size_t)ids[blockIdx.x] * width + column] = sum * factor;
}
FOR_BOTH(embed_backward,
         (float* gradient, const T* dy, const unsigned* ids, const int* starts, const int* tokens, int width,
          float factor, MASK_ARGS, WORD_ARGS),
         (gradient, dy, ids, starts, tokens, width, factor, MASK_PASS, WORD_PASS))
