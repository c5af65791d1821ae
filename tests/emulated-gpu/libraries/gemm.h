// Products of matrices, column after column as cuBLAS has them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gemm {

enum class Type : uint8_t { F32, F64, BF16 };
constexpr size_t size_of(Type t) { return t == Type::F64 ? 8 : t == Type::F32 ? 4 : 2; }

struct Matrix {
    const void* data;
    Type type;
    bool transposed;
    int64_t leading;
};

// c (m by n) = alpha * op(a) * op(b) + beta * c; sums in f32, in f64 if everything is f64
void multiply(int64_t m, int64_t n, int64_t k, double alpha, const Matrix& a, const Matrix& b, double beta, void* c,
              Type c_type, int64_t c_leading);

}  // namespace gemm
