// cuBLAS: handles, and products of f32, f64 and bf16 matrices.
#define CUBLASAPI
#include <cublas_v2.h>

#include <cstdio>

#include "gemm.h"
#include "interface.h"

struct cublasContext {
    cudaStream_t stream = nullptr;
    cublasMath_t math = CUBLAS_DEFAULT_MATH;
    cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
};

namespace {

bool type_of(cudaDataType_t type, gemm::Type* out) {
    switch (type) {
        case CUDA_R_32F: *out = gemm::Type::F32; return true;
        case CUDA_R_64F: *out = gemm::Type::F64; return true;
        case CUDA_R_16BF: *out = gemm::Type::BF16; return true;
        default: return false;
    }
}

// bytes from the first to the last element of a matrix
size_t extent(int64_t rows, int64_t columns, int64_t leading, gemm::Type type) {
    return rows == 0 || columns == 0 ? 0 : size_t((columns - 1) * leading + rows) * gemm::size_of(type);
}

struct Operand {
    const void* data;
    gemm::Type type;
    cublasOperation_t operation;
    int64_t leading;
    long long stride;
};

cublasStatus_t product(const char* call, cublasHandle_t handle, int64_t m, int64_t n, int64_t k, const void* alpha,
                       const Operand& a, const Operand& b, const void* beta, void* c, gemm::Type c_type, int64_t c_leading,
                       long long c_stride, int batch) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (handle->pointers != CUBLAS_POINTER_MODE_HOST) emulated_gpu_fail("%s: factors in device memory are not emulated", call);
    emulated_gpu_count(call, 0);
    if (m < 0 || n < 0 || k < 0 || batch < 0) return CUBLAS_STATUS_INVALID_VALUE;
    const bool transposed_a = a.operation != CUBLAS_OP_N, transposed_b = b.operation != CUBLAS_OP_N;
    auto least = [](int64_t rows) { return rows > 1 ? rows : 1; };
    if (a.leading < least(transposed_a ? k : m) || b.leading < least(transposed_b ? n : k) || c_leading < least(m)) {
        fprintf(stderr, "emulated GPU: %s: leading dimension too small: m %ld n %ld k %ld lda %ld ldb %ld ldc %ld\n", call,
                long(m), long(n), long(k), long(a.leading), long(b.leading), long(c_leading));
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (m == 0 || n == 0 || batch == 0) return CUBLAS_STATUS_SUCCESS;
    // batches must not write to the same place
    if (batch > 1 && size_t(c_stride < 0 ? -c_stride : c_stride) == 0) emulated_gpu_fail("%s: all of a batch write to one matrix", call);
    double factors[2];
    const void* given[2] = {alpha, beta};
    for (int i = 0; i < 2; i++)
        factors[i] = c_type == gemm::Type::F64 ? *static_cast<const double*>(given[i])
                                               : double(*static_cast<const float*>(given[i]));
    for (int i = 0; i < batch; i++) {
        auto place = [&](const void* data, gemm::Type type, long long stride) {
            return reinterpret_cast<uintptr_t>(data) + intptr_t(stride) * i * intptr_t(gemm::size_of(type));
        };
        const uintptr_t pa = place(a.data, a.type, a.stride), pb = place(b.data, b.type, b.stride),
                        pc = place(c, c_type, c_stride);
        auto reads = [](uintptr_t at, int64_t rows, int64_t columns, int64_t leading, gemm::Type type, const char* what) {
            emulated_gpu_check_range(at, extent(rows, columns, leading, type), what);
            const size_t size = gemm::size_of(type);
            emulated_gpu_library_read(at, size_t(rows) * size, size_t(columns), size_t(leading) * size, what);
        };
        if (k > 0) {
            reads(pa, transposed_a ? k : m, transposed_a ? m : k, a.leading, a.type, "matrix a of a product");
            reads(pb, transposed_b ? n : k, transposed_b ? k : n, b.leading, b.type, "matrix b of a product");
        }
        if (factors[1] != 0) reads(pc, m, n, c_leading, c_type, "matrix c of a product");
        emulated_gpu_check_range(pc, extent(m, n, c_leading, c_type), "matrix c of a product");
        gemm::multiply(m, n, k, factors[0], {reinterpret_cast<const void*>(pa), a.type, transposed_a, a.leading},
                       {reinterpret_cast<const void*>(pb), b.type, transposed_b, b.leading}, factors[1],
                       reinterpret_cast<void*>(pc), c_type, c_leading);
        const size_t size = gemm::size_of(c_type);
        emulated_gpu_library_wrote(pc, size_t(m) * size, size_t(n), size_t(c_leading) * size);
    }
    return CUBLAS_STATUS_SUCCESS;
}

// What cuBLAS can do of what is emulated: all f64, all f32, bf16 to bf16 or f32.
bool known(gemm::Type a, gemm::Type b, gemm::Type c, cublasComputeType_t compute) {
    if (a != b) return false;
    switch (a) {
        case gemm::Type::F64: return c == a && compute == CUBLAS_COMPUTE_64F;
        case gemm::Type::F32:
            return c == a && (compute == CUBLAS_COMPUTE_32F || compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                              compute == CUBLAS_COMPUTE_32F_FAST_TF32 || compute == CUBLAS_COMPUTE_32F_FAST_16BF);
        default:
            // PEDANTIC has no rounding of its own; FAST ones are for f32 operands but accepted
            return c != gemm::Type::F64 && compute != CUBLAS_COMPUTE_64F && compute != CUBLAS_COMPUTE_16F;
    }
}

}  // namespace

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
    *handle = new cublasContext;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetVersion_v2(cublasHandle_t, int* version) {
    *version = 130000;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetStream_v2(cublasHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetStream_v2(cublasHandle_t handle, cudaStream_t* stream) {
    *stream = handle->stream;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetWorkspace_v2(cublasHandle_t, void* workspace, size_t size) {
    if (size) emulated_gpu_check_range(reinterpret_cast<uintptr_t>(workspace), size, "workspace of cuBLAS");
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetMathMode(cublasHandle_t handle, cublasMath_t mode) {
    handle->math = mode;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetMathMode(cublasHandle_t handle, cublasMath_t* mode) {
    *mode = handle->math;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasSetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t mode) {
    handle->pointers = mode;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasGetPointerMode_v2(cublasHandle_t handle, cublasPointerMode_t* mode) {
    *mode = handle->pointers;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const float* alpha, const float* a, int lda, const float* b, int ldb, const float* beta,
                              float* c, int ldc) {
    using gemm::Type;
    return product("cublasSgemm", handle, m, n, k, alpha, {a, Type::F32, ta, lda, 0}, {b, Type::F32, tb, ldb, 0}, beta, c,
                   Type::F32, ldc, 0, 1);
}
cublasStatus_t cublasDgemm_v2(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                              const double* alpha, const double* a, int lda, const double* b, int ldb, const double* beta,
                              double* c, int ldc) {
    using gemm::Type;
    return product("cublasDgemm", handle, m, n, k, alpha, {a, Type::F64, ta, lda, 0}, {b, Type::F64, tb, ldb, 0}, beta, c,
                   Type::F64, ldc, 0, 1);
}
cublasStatus_t cublasSgemmStridedBatched(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                         int k, const float* alpha, const float* a, int lda, long long sa, const float* b,
                                         int ldb, long long sb, const float* beta, float* c, int ldc, long long sc,
                                         int batch) {
    using gemm::Type;
    return product("cublasSgemmStridedBatched", handle, m, n, k, alpha, {a, Type::F32, ta, lda, sa},
                   {b, Type::F32, tb, ldb, sb}, beta, c, Type::F32, ldc, sc, batch);
}
cublasStatus_t cublasDgemmStridedBatched(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                         int k, const double* alpha, const double* a, int lda, long long sa,
                                         const double* b, int ldb, long long sb, const double* beta, double* c, int ldc,
                                         long long sc, int batch) {
    using gemm::Type;
    return product("cublasDgemmStridedBatched", handle, m, n, k, alpha, {a, Type::F64, ta, lda, sa},
                   {b, Type::F64, tb, ldb, sb}, beta, c, Type::F64, ldc, sc, batch);
}
cublasStatus_t cublasGemmStridedBatchedEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n,
                                          int k, const void* alpha, const void* a, cudaDataType_t a_type, int lda,
                                          long long sa, const void* b, cudaDataType_t b_type, int ldb, long long sb,
                                          const void* beta, void* c, cudaDataType_t c_type, int ldc, long long sc,
                                          int batch, cublasComputeType_t compute, cublasGemmAlgo_t) {
    gemm::Type types[3];
    if (!type_of(a_type, &types[0]) || !type_of(b_type, &types[1]) || !type_of(c_type, &types[2]) ||
        !known(types[0], types[1], types[2], compute))
        emulated_gpu_fail("cublasGemmEx: types %d, %d, %d with compute type %d are not emulated", a_type, b_type, c_type,
                          compute);
    return product("cublasGemmStridedBatchedEx", handle, m, n, k, alpha, {a, types[0], ta, lda, sa},
                   {b, types[1], tb, ldb, sb}, beta, c, types[2], ldc, sc, batch);
}
cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k,
                            const void* alpha, const void* a, cudaDataType_t a_type, int lda, const void* b,
                            cudaDataType_t b_type, int ldb, const void* beta, void* c, cudaDataType_t c_type, int ldc,
                            cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
    return cublasGemmStridedBatchedEx(handle, ta, tb, m, n, k, alpha, a, a_type, lda, 0, b, b_type, ldb, 0, beta, c, c_type,
                                      ldc, 0, 1, compute, algorithm);
}
