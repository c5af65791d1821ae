// Products of matrices: both operands are packed as numbers of the sum's type, tile by tile, then multiplied in registers.
#include "gemm.h"

#include <cstring>
#include <vector>

namespace gemm {
namespace {

// What of c is kept in registers: two vectors of rows, six columns.
constexpr int kColumns = 6, kVector = 32;
template <typename Sum>
constexpr int kRowsOf = 2 * kVector / int(sizeof(Sum));
constexpr int64_t kDepth = 256, kPanel = 128;

float from_bf16(uint16_t x) {
    uint32_t bits = uint32_t(x) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
// to the nearest, to even if two are as near
uint16_t to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
    return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <typename Sum>
Sum load(const void* data, Type type, int64_t i) {
    switch (type) {
        case Type::F32: return Sum(static_cast<const float*>(data)[i]);
        case Type::F64: return Sum(static_cast<const double*>(data)[i]);
        default: return Sum(from_bf16(static_cast<const uint16_t*>(data)[i]));
    }
}
template <typename Sum>
void store(void* data, Type type, int64_t i, Sum value) {
    switch (type) {
        case Type::F32: static_cast<float*>(data)[i] = float(value); break;
        case Type::F64: static_cast<double*>(data)[i] = double(value); break;
        default: static_cast<uint16_t*>(data)[i] = to_bf16(float(value));
    }
}

// Packs rows [row, row + rows) and depths [depth, depth + depths) of an operand: strips of `width` rows, depth by depth,
// the last strip filled with zeros. `by_row`: the element of row r and depth d lies at r + d * leading.
template <typename Sum, typename T, typename Convert>
void pack(Sum* out, const T* data, bool by_row, int64_t leading, int64_t row, int64_t rows, int64_t depth, int64_t depths,
          int width, Convert convert) {
    for (int64_t r0 = 0; r0 < rows; r0 += width) {
        int64_t w = rows - r0 < width ? rows - r0 : width;
        for (int64_t d = 0; d < depths; d++) {
            const int64_t base = by_row ? (row + r0) + (depth + d) * leading : (row + r0) * leading + (depth + d);
            const int64_t step = by_row ? 1 : leading;
            int64_t i = 0;
            for (; i < w; i++) *out++ = convert(data[base + i * step]);
            for (; i < width; i++) *out++ = 0;
        }
    }
}
template <typename Sum>
void pack(Sum* out, const Matrix& x, bool by_row, int64_t row, int64_t rows, int64_t depth, int64_t depths, int width) {
    switch (x.type) {
        case Type::F32:
            return pack(out, static_cast<const float*>(x.data), by_row, x.leading, row, rows, depth, depths, width,
                        [](float f) { return Sum(f); });
        case Type::F64:
            return pack(out, static_cast<const double*>(x.data), by_row, x.leading, row, rows, depth, depths, width,
                        [](double f) { return Sum(f); });
        default:
            return pack(out, static_cast<const uint16_t*>(x.data), by_row, x.leading, row, rows, depth, depths, width,
                        [](uint16_t f) { return Sum(from_bf16(f)); });
    }
}

template <typename Sum>
void tile(const Sum* __restrict__ a, const Sum* __restrict__ b, int64_t depths, Sum* __restrict__ out) {
    typedef Sum Vector __attribute__((vector_size(kVector), aligned(sizeof(Sum))));
    constexpr int lanes = kVector / int(sizeof(Sum));
    Vector low[kColumns] = {}, high[kColumns] = {};
    for (int64_t d = 0; d < depths; d++) {
        const Vector first = *reinterpret_cast<const Vector*>(a), second = *reinterpret_cast<const Vector*>(a + lanes);
#pragma GCC unroll 6
        for (int j = 0; j < kColumns; j++) {
            low[j] += first * b[j];
            high[j] += second * b[j];
        }
        a += 2 * lanes;
        b += kColumns;
    }
#pragma GCC unroll 6
    for (int j = 0; j < kColumns; j++) {
        *reinterpret_cast<Vector*>(out + j * 2 * lanes) = low[j];
        *reinterpret_cast<Vector*>(out + j * 2 * lanes + lanes) = high[j];
    }
}

template <typename Sum>
void run(int64_t m, int64_t n, int64_t k, Sum alpha, const Matrix& a, const Matrix& b, Sum beta, void* c, Type c_type,
         int64_t c_leading) {
    constexpr int kRows = kRowsOf<Sum>;
    // sums over all depths, for one panel of columns
    std::vector<Sum> sums, packed_a, packed_b;
    const int64_t rows = (m + kRows - 1) / kRows * kRows;
    for (int64_t j0 = 0; j0 < n; j0 += kPanel / kColumns * kColumns) {
        const int64_t js = n - j0 < kPanel / kColumns * kColumns ? n - j0 : kPanel / kColumns * kColumns;
        const int64_t columns = (js + kColumns - 1) / kColumns * kColumns;
        sums.assign(size_t(rows) * columns, Sum(0));
        for (int64_t d0 = 0; d0 < k; d0 += kDepth) {
            const int64_t ds = k - d0 < kDepth ? k - d0 : kDepth;
            packed_b.resize(size_t(columns) * ds);
            pack(packed_b.data(), b, b.transposed, j0, js, d0, ds, kColumns);
            packed_a.resize(size_t(rows) * ds);
            pack(packed_a.data(), a, !a.transposed, 0, m, d0, ds, kRows);
            for (int64_t i0 = 0; i0 < rows; i0 += kRows)
                for (int64_t j = 0; j < columns; j += kColumns) {
                    Sum part[kColumns * kRows];
                    tile(packed_a.data() + i0 * ds, packed_b.data() + j * ds, ds, part);
                    for (int x = 0; x < kColumns; x++)
                        for (int y = 0; y < kRows; y++) sums[size_t(j + x) * rows + i0 + y] += part[x * kRows + y];
                }
        }
        for (int64_t j = 0; j < js; j++)
            for (int64_t i = 0; i < m; i++) {
                const int64_t at = (j0 + j) * c_leading + i;
                Sum value = alpha * sums[size_t(j) * rows + i];
                // c is not read if beta is zero
                if (beta != Sum(0)) value += beta * load<Sum>(c, c_type, at);
                store(c, c_type, at, value);
            }
    }
}

}  // namespace

void multiply(int64_t m, int64_t n, int64_t k, double alpha, const Matrix& a, const Matrix& b, double beta, void* c,
              Type c_type, int64_t c_leading) {
    if (c_type == Type::F64)
        run<double>(m, n, k, alpha, a, b, beta, c, c_type, c_leading);
    else
        run<float>(m, n, k, float(alpha), a, b, float(beta), c, c_type, c_leading);
}

}  // namespace gemm
