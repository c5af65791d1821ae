// Single steps of gated cells for a batch of sentences, formulas in cell.rs, and the additive attention of attentional.rs.
//
// Lanes are sentences, longest first, so that those still running are the first `alive`; order[lane] is the sentence.
// Rows by token are packed as everywhere; rows by lane are working memory of one step.
#include "common.cuh"

// Where lane is at step t of its sentence.
__device__ __forceinline__ size_t token_of(const int* starts, const int* lengths, int lane, int t, int reverse) {
    return starts[lane] + (reverse ? lengths[lane] - 1 - t : t);
}

// hidden and memory (by lane) go one step on; out and saved get rows by token. The cell's input is x[token] (+
// extra[lane], unless null), the state's projection projected[lane] (null: zero) + bias. One thread a unit.
template <class T>
__device__ void cell_forward(T* out, float* saved, T* hidden, float* memory, const T* x, const float* extra,
                             const float* projected, const float* bias, const int* starts, const int* lengths, int t,
                             int reverse, int alive, int h, int lstm, int projected_stride, int out_stride) {
    size_t index = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (size_t)alive * h) return;
    int lane = (int)(index / h), i = (int)(index % h), gates = lstm ? 4 : 3;
    size_t token = token_of(starts, lengths, lane, t, reverse);
    float in[4], state[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (k == gates) break;
        in[k] = to_float(x[token * gates * h + k * h + i]);
        if (extra) in[k] += extra[(size_t)lane * gates * h + k * h + i];
        state[k] = bias[k * h + i];
        if (projected) state[k] += projected[(size_t)lane * projected_stride + k * h + i];
    }
    float* kept = saved + token * (lstm ? 5 : 4) * h + i;
    float now;
    if (lstm) {
        float gate_i = sigmoid(in[0] + state[0]), gate_f = sigmoid(in[1] + state[1]);
        float c = tanhf(in[2] + state[2]), gate_o = sigmoid(in[3] + state[3]);
        float after = gate_f * memory[index] + gate_i * c;
        memory[index] = after;
        now = gate_o * tanhf(after);
        kept[0] = gate_i;
        kept[h] = gate_f;
        kept[2 * h] = c;
        kept[3 * h] = gate_o;
        kept[4 * h] = after;
    } else {
        float r = sigmoid(in[0] + state[0]), z = sigmoid(in[1] + state[1]);
        float n = tanhf(in[2] + r * state[2]);
        now = n + z * (to_float(hidden[index]) - n);
        kept[0] = r;
        kept[h] = z;
        kept[2 * h] = n;
        kept[3 * h] = state[2];
    }
    hidden[index] = put<T>(now);
    out[token * out_stride + i] = put<T>(now);
}
FOR_BOTH(cell_forward,
         (T* out, float* saved, T* hidden, float* memory, const T* x, const float* extra, const float* projected,
          const float* bias, const int* starts, const int* lengths, int t, int reverse, int alive, int h, int lstm,
          int projected_stride, int out_stride),
         (out, saved, hidden, memory, x, extra, projected, bias, starts, lengths, t, reverse, alive, h, lstm,
          projected_stride, out_stride))

// One step back: dh and dm (by lane) take in grad[token], then become those of the step before, dh without the part that
// goes through the projection. dx: by token; dinputs (or null): the same by lane; dprojected: by lane; own (or null): the
// GRU's third gate of dprojected by token.
template <class T>
__device__ void cell_backward(T* dx, T* dinputs, T* dprojected, T* own, float* dh, float* dm, const T* grad,
                              const float* saved, const T* before, const int* starts, const int* lengths, int t,
                              int reverse, int alive, int h, int lstm, int projected_stride, int own_stride,
                              int grad_stride) {
    size_t index = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= (size_t)alive * h) return;
    int lane = (int)(index / h), i = (int)(index % h), gates = lstm ? 4 : 3;
    size_t token = token_of(starts, lengths, lane, t, reverse);
    const float* kept = saved + token * (lstm ? 5 : 4) * h + i;
    float d = dh[index] + to_float(grad[token * grad_stride + i]), d_in[4], d_state[4];
    if (lstm) {
        float gate_i = kept[0], gate_f = kept[h], c = kept[2 * h], gate_o = kept[3 * h], y = tanhf(kept[4 * h]);
        float memory = 0.0f;
        if (t > 0) memory = saved[token_of(starts, lengths, lane, t - 1, reverse) * 5 * h + 4 * h + i];
        float d_memory = dm[index] + d * gate_o * (1.0f - y * y);
        d_in[0] = d_memory * c * gate_i * (1.0f - gate_i);
        d_in[1] = d_memory * memory * gate_f * (1.0f - gate_f);
        d_in[2] = d_memory * gate_i * (1.0f - c * c);
        d_in[3] = d * y * gate_o * (1.0f - gate_o);
        for (int k = 0; k < 4; k++) d_state[k] = d_in[k];
        dm[index] = d_memory * gate_f;
        dh[index] = 0.0f;
    } else {
        float r = kept[0], z = kept[h], n = kept[2 * h], u = kept[3 * h];
        d_in[2] = d * (1.0f - z) * (1.0f - n * n);
        d_in[0] = d_in[2] * u * r * (1.0f - r);
        d_in[1] = d * (to_float(before[token * h + i]) - n) * z * (1.0f - z);
        d_state[0] = d_in[0];
        d_state[1] = d_in[1];
        d_state[2] = d_in[2] * r;
        dh[index] = d * z;
        if (own) own[token * own_stride + i] = put<T>(d_state[2]);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (k == gates) break;
        dx[token * gates * h + k * h + i] = put<T>(d_in[k]);
        if (dinputs) dinputs[(size_t)lane * gates * h + k * h + i] = put<T>(d_in[k]);
        dprojected[(size_t)lane * projected_stride + k * h + i] = put<T>(d_state[k]);
    }
}
FOR_BOTH(cell_backward,
         (T* dx, T* dinputs, T* dprojected, T* own, float* dh, float* dm, const T* grad, const float* saved,
          const T* before, const int* starts, const int* lengths, int t, int reverse, int alive, int h, int lstm,
          int projected_stride, int own_stride, int grad_stride),
         (dx, dinputs, dprojected, own, dh, dm, grad, saved, before, starts, lengths, t, reverse, alive, h, lstm,
          projected_stride, own_stride, grad_stride))

// to[row] = from[index[row]], rows of from being from_stride apart; a negative index -1 - s takes first[s], or zeros if
// that is null.
template <class T>
__device__ void gather_rows(T* to, const T* from, const T* first, const int* index, int rows, int width,
                            int from_stride) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)rows * width) return;
    int source = index[i / width];
    size_t column = i % width;
    if (source >= 0) to[i] = from[(size_t)source * from_stride + column];
    else to[i] = first ? first[(size_t)(-1 - source) * width + column] : put<T>(0.0f);
}
FOR_BOTH(gather_rows, (T* to, const T* from, const T* first, const int* index, int rows, int width, int from_stride),
         (to, from, first, index, rows, width, from_stride))

// to[index[row]] = from[row]
template <class T> __device__ void scatter_rows(T* to, const float* from, const int* index, int rows, int width) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (size_t)rows * width) to[(size_t)index[i / width] * width + i % width] = put<T>(from[i]);
}
FOR_BOTH(scatter_rows, (T* to, const float* from, const int* index, int rows, int width),
         (to, from, index, rows, width))

// What the query of a lane reads of its source sentence; a block of 128 threads a lane, shared: the longest sentence.
// The query is at `query_start` of projected[lane]; it is copied to queries[token] and the weights to alphas, both unless
// null. `firsts[lane]`, `counts[lane]`: the source rows; `places[lane] + t * count`: place of the weights. context: by
// lane; out[token] (unless null) gets it too, from column out_start on.
template <class T>
__device__ void additive_forward(T* context, T* out, float* queries, float* alphas, const float* projected,
                                 const T* keys, const T* values, const float* v, const int* starts, const int* firsts,
                                 const int* counts, const unsigned* places, int t, int a, int e, int projected_stride,
                                 int query_start, int out_stride, int out_start) {
    DYNAMIC_SHARED(float, weights);
    __shared__ float shared[32];
    int lane = blockIdx.x, warp = threadIdx.x >> 5, in_warp = threadIdx.x & 31;
    int first = firsts[lane], count = counts[lane];
    size_t token = (size_t)starts[lane] + t;
    const float* query = projected + (size_t)lane * projected_stride + query_start;
    if (queries)
        for (int j = threadIdx.x; j < a; j += blockDim.x) queries[token * a + j] = query[j];
    for (int row = warp; row < count; row += blockDim.x >> 5) {
        float score = 0.0f;
        for (int j = in_warp; j < a; j += 32)
            score += v[j] * tanhf(query[j] + to_float(keys[(size_t)(first + row) * a + j]));
        score = warp_sum(score);
        if (in_warp == 0) weights[row] = score;
    }
    __syncthreads();
    float top = -INFINITY, total = 0.0f;
    for (int row = threadIdx.x; row < count; row += blockDim.x) top = fmaxf(top, weights[row]);
    top = block_max(top, shared);
    for (int row = threadIdx.x; row < count; row += blockDim.x) {
        weights[row] = expf(weights[row] - top);
        total += weights[row];
    }
    total = block_sum(total, shared);
    if (alphas)
        for (int row = threadIdx.x; row < count; row += blockDim.x)
            alphas[places[lane] + (size_t)t * count + row] = weights[row] / total;
    for (int c = threadIdx.x; c < e; c += blockDim.x) {
        float sum = 0.0f;
        for (int row = 0; row < count; row++) sum += weights[row] * to_float(values[(size_t)(first + row) * e + c]);
        T read = put<T>(count ? sum / total : 0.0f);
        context[(size_t)lane * e + c] = read;
        if (out) out[token * out_stride + out_start + c] = read;
    }
}
FOR_BOTH(additive_forward,
         (T* context, T* out, float* queries, float* alphas, const float* projected, const T* keys, const T* values,
          const float* v, const int* starts, const int* firsts, const int* counts, const unsigned* places, int t, int a,
          int e, int projected_stride, int query_start, int out_stride, int out_start),
         (context, out, queries, alphas, projected, keys, values, v, starts, firsts, counts, places, t, a, e,
          projected_stride, query_start, out_stride, out_start))

// The way back: dkeys, dvalues (by source token) and dv (by lane) are added to, in float; the gradient of the query goes
// to dprojected[lane] from query_start on and to by_token[token] from column own on. dcontext: by lane, in float.
template <class T>
__device__ void additive_backward(float* dkeys, float* dvalues, float* dv, T* dprojected, T* by_token,
                                  const float* dcontext, const float* queries, const float* alphas, const T* keys,
                                  const T* values, const float* v, const int* starts, const int* firsts,
                                  const int* counts, const unsigned* places, int t, int a, int e, int projected_stride,
                                  int query_start, int own) {
    DYNAMIC_SHARED(float, scores);
    __shared__ float shared[32];
    int lane = blockIdx.x, warp = threadIdx.x >> 5, in_warp = threadIdx.x & 31;
    int first = firsts[lane], count = counts[lane];
    size_t token = (size_t)starts[lane] + t;
    const float* alpha = alphas + places[lane] + (size_t)t * count;
    const float* d = dcontext + (size_t)lane * e;
    for (int row = warp; row < count; row += blockDim.x >> 5) {
        float sum = 0.0f;
        for (int c = in_warp; c < e; c += 32) {
            size_t at = (size_t)(first + row) * e + c;
            sum += d[c] * to_float(values[at]);
            dvalues[at] += alpha[row] * d[c];
        }
        sum = warp_sum(sum);
        if (in_warp == 0) scores[row] = sum;
    }
    __syncthreads();
    float mean = 0.0f;
    for (int row = threadIdx.x; row < count; row += blockDim.x) mean += alpha[row] * scores[row];
    mean = block_sum(mean, shared);
    for (int row = threadIdx.x; row < count; row += blockDim.x) scores[row] = alpha[row] * (scores[row] - mean);
    __syncthreads();
    for (int j = threadIdx.x; j < a; j += blockDim.x) {
        float query = queries[token * a + j], dquery = 0.0f, denergy = 0.0f;
        for (int row = 0; row < count; row++) {
            size_t at = (size_t)(first + row) * a + j;
            float y = tanhf(query + to_float(keys[at])), dkey = scores[row] * v[j] * (1.0f - y * y);
            denergy += scores[row] * y;
            dquery += dkey;
            dkeys[at] += dkey;
        }
        dv[(size_t)lane * a + j] += denergy;
        dprojected[(size_t)lane * projected_stride + query_start + j] = put<T>(dquery);
        by_token[token * (own + a) + own + j] = put<T>(dquery);
    }
}
FOR_BOTH(additive_backward,
         (float* dkeys, float* dvalues, float* dv, T* dprojected, T* by_token, const float* dcontext,
          const float* queries, const float* alphas, const T* keys, const T* values, const float* v, const int* starts,
          const int* firsts, const int* counts, const unsigned* places, int t, int a, int e, int projected_stride,
          int query_start, int own),
         (dkeys, dvalues, dv, dprojected, by_token, dcontext, queries, alphas, keys, values, v, starts, firsts, counts,
          places, t, a, e, projected_stride, query_start, own))

// to (by lane, float) = columns from_start.. of from[token], rows of from being from_stride apart.
template <class T>
__device__ void take_step(float* to, const T* from, const int* starts, int t, int alive, int width, int from_stride,
                          int from_start) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (size_t)alive * width) return;
    size_t token = (size_t)starts[i / width] + t;
    to[i] = to_float(from[token * from_stride + from_start + i % width]);
}
FOR_BOTH(take_step,
         (float* to, const T* from, const int* starts, int t, int alive, int width, int from_stride, int from_start),
         (to, from, starts, t, alive, width, from_stride, from_start))
