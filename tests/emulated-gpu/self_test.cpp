// Tries the stand-ins: self_test runs all that must succeed, `self_test NAME` one launch that the emulation must refuse.
// Linked with the stand-ins themselves; self-test.sh runs it.
#include <cublas_v2.h>
#include <cuda.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#define OK(call)                                                                \
    do {                                                                        \
        if (int code = int(call)) {                                             \
            fprintf(stderr, "%s:%d: %s gives %d\n", __FILE__, __LINE__, #call, code); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)
#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            fprintf(stderr, "%s:%d: not %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)

static const char* names[] = {"sum_rows",         "reverse_rows", "count_values",        "scale_f32",      "scale_bf16",
                              "warp_things",      "last_block",   "wrong_barrier",       "wrong_no_barrier", "wrong_mask",
                              "wrong_end",        "wrong_shared_end", "wrong_sum",       "wrong_blocks",
                              "wrong_uninitialized", "wrong_alignment"};
static CUmodule module_;

static CUfunction function(const char* name) {
    CUfunction f;
    OK(cuModuleGetFunction(&f, module_, name));
    return f;
}
template <typename T>
static CUdeviceptr upload(const std::vector<T>& x) {
    CUdeviceptr p;
    OK(cuMemAlloc(&p, x.size() * sizeof(T)));
    OK(cuMemcpyHtoD(p, x.data(), x.size() * sizeof(T)));
    return p;
}
template <typename T>
static std::vector<T> download(CUdeviceptr p, size_t n) {
    std::vector<T> x(n);
    OK(cuMemcpyDtoH(x.data(), p, n * sizeof(T)));
    return x;
}
template <typename... A>
static CUresult launch(const char* name, unsigned grid, unsigned block, unsigned shared, A... arguments) {
    void* list[] = {&arguments...};
    return cuLaunchKernel(function(name), grid, 1, 1, block, 1, 1, shared, nullptr, list, nullptr);
}
static CUdeviceptr empty(size_t bytes) {
    CUdeviceptr p;
    OK(cuMemAlloc(&p, bytes));
    return p;
}
static CUdeviceptr zeros(size_t bytes) {
    CUdeviceptr p = empty(bytes);
    OK(cuMemsetD8(p, 0, bytes));
    return p;
}
static float from_bf16(uint16_t x) {
    uint32_t b = uint32_t(x) << 16;
    float f;
    memcpy(&f, &b, 4);
    return f;
}
static uint16_t to_bf16(float f) {
    uint32_t b;
    memcpy(&b, &f, 4);
    return uint16_t((b + 0x7FFF + (b >> 16 & 1)) >> 16);
}

static void kernels() {
    const int rows = 37, columns = 1000;
    std::vector<float> x(rows * columns);
    for (size_t i = 0; i < x.size(); i++) x[i] = float(int(i * 7 % 13) - 6);
    CUdeviceptr dx = upload(x), sums = empty(rows * 4), reversed = empty(x.size() * 4);
    for (unsigned block : {32u, 64u, 256u}) {
        OK(launch("sum_rows", rows, block, 0, dx, sums, columns));
        auto s = download<float>(sums, rows);
        for (int r = 0; r < rows; r++) {
            float want = 0;
            for (int c = 0; c < columns; c++) want += x[r * columns + c];
            CHECK(s[r] == want);
        }
    }
    OK(launch("reverse_rows", rows, 96, columns * 4, dx, reversed, unsigned(columns)));
    auto y = download<float>(reversed, x.size());
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) CHECK(y[r * columns + c] == x[r * columns + columns - 1 - c]);

    std::vector<uint32_t> v(5000);
    for (size_t i = 0; i < v.size(); i++) v[i] = uint32_t(i * 31 % 17);
    CUdeviceptr dv = upload(v), counts = zeros(17 * 4), total = zeros(4), largest = zeros(4);
    OK(launch("count_values", 40, 128, 0, dv, 5000, counts, total, largest));
    int want[17] = {};
    float sum = 0;
    for (auto i : v) want[i]++, sum += float(i);
    CHECK(!memcmp(download<int>(counts, 17).data(), want, sizeof want));
    CHECK(download<float>(total, 1)[0] == sum && download<unsigned>(largest, 1)[0] == 16);

    OK(launch("scale_f32", (rows * columns + 255) / 256, 256, 0, dx, reversed, 0.5f, x.size()));
    y = download<float>(reversed, x.size());
    for (size_t i = 0; i < x.size(); i++) CHECK(y[i] == x[i] * 0.5f);
    std::vector<uint16_t> b(1001);
    for (size_t i = 0; i < b.size(); i++) b[i] = to_bf16(float(i) * 0.37f);
    CUdeviceptr db = upload(b);
    OK(launch("scale_bf16", 4, 256, 0, db, db, 1.3f, b.size()));
    auto scaled = download<uint16_t>(db, b.size());
    for (size_t i = 0; i < b.size(); i++) CHECK(scaled[i] == to_bf16(from_bf16(b[i]) * 1.3f));

    CUdeviceptr words = empty(32 * 16 * 4);
    OK(launch("warp_things", 1, 32, 0, words));
    auto w = download<unsigned>(words, 32 * 16);
    for (unsigned l = 0; l < 32; l++) {
        const unsigned* o = &w[16 * l];
        CHECK(o[0] == (l ^ 5) && o[1] == (l + 3 < 32 ? l + 3 : l) && o[2] == (l >= 3 ? l - 3 : l) && o[3] == 7);
        CHECK(o[4] == (l & ~7u) + 3 && o[5] == 0x49249249 && o[6] == 3 && o[7] == 496 && o[8] == 0xFu << (l & ~3u));
        CHECK(o[9] == (l < 16 ? l ^ 1 : l < 31 ? l + 1 : 31) && o[10] == (l ^ 1) * 2 + 1);
        CHECK(o[11] == (l % 8 + 3 < 8 ? l + 3 : l) && o[12] == (l % 8 >= 3 ? l - 3 : l) && o[13] == 10);
        CHECK(int(o[14]) == std::max(int(l) - 40, -20) + 100 && o[15] == unsigned(__builtin_popcount(l)) + 31 + 4);
    }

    CUdeviceptr parts = empty(20 * 4), done = zeros(4), out = empty(4);
    OK(launch("last_block", 20, 64, 0, dx, parts, done, out));
    float all = 0;
    for (int i = 0; i < 20 * 64; i++) all += x[i];
    CHECK(download<float>(out, 1)[0] == all);
    for (CUdeviceptr p : {dx, sums, reversed, dv, counts, total, largest, db, words, parts, done, out}) OK(cuMemFree(p));
}

static void limits() {
    CUdeviceptr x = empty(1 << 20);
    CHECK(std::isnan(download<float>(x, 4)[3]));
    CHECK(launch("sum_rows", 1, 512, 0, x, x, 1) == CUDA_ERROR_INVALID_VALUE);
    CHECK(launch("reverse_rows", 1, 32, 49152 + 4, x, x, 8u) == CUDA_ERROR_INVALID_VALUE);
    OK(cuFuncSetAttribute(function("reverse_rows"), CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 200000));
    OK(cuMemsetD8(x, 0, 1 << 20));
    CUdeviceptr y = empty(200000);
    OK(launch("reverse_rows", 1, 32, 200000, x, y, 50000u));
    CHECK(launch("reverse_rows", 1, 2048, 0, x, y, 8u) == CUDA_ERROR_INVALID_VALUE);
    CUfunction f;
    CHECK(cuModuleGetFunction(&f, module_, "nothing") == CUDA_ERROR_NOT_FOUND);
    size_t before, after, total;
    OK(cuMemGetInfo(&before, &total));
    CUdeviceptr big;
    CHECK(cuMemAlloc(&big, total) == CUDA_ERROR_OUT_OF_MEMORY);
    big = empty(1 << 20);
    OK(cuMemGetInfo(&after, &total));
    CHECK(before - after == 1 << 20);

    // pinned memory: nothing arrives before somebody waits
    float* pinned;
    OK(cuMemHostAlloc(reinterpret_cast<void**>(&pinned), 64, 0));
    OK(cuMemcpyDtoHAsync(pinned, x, 64, nullptr));
    CHECK(std::isnan(pinned[0]));
    OK(cuStreamSynchronize(nullptr));
    CHECK(pinned[0] == 0.0f);
    OK(cuMemFreeHost(pinned));
    for (CUdeviceptr p : {x, y, big}) OK(cuMemFree(p));
}

static double at(const std::vector<uint8_t>& x, cudaDataType_t type, size_t i) {
    if (type == CUDA_R_64F) return reinterpret_cast<const double*>(x.data())[i];
    if (type == CUDA_R_32F) return reinterpret_cast<const float*>(x.data())[i];
    return from_bf16(reinterpret_cast<const uint16_t*>(x.data())[i]);
}
static size_t size_of(cudaDataType_t type) { return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2; }
static std::vector<uint8_t> numbers(size_t n, cudaDataType_t type, unsigned seed) {
    std::vector<uint8_t> x(n * size_of(type));
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525 + 1013904223;
        float f = float(int(seed >> 24) - 128) / 64.0f;
        if (type == CUDA_R_64F) reinterpret_cast<double*>(x.data())[i] = f;
        else if (type == CUDA_R_32F) reinterpret_cast<float*>(x.data())[i] = f;
        else reinterpret_cast<uint16_t*>(x.data())[i] = to_bf16(f);
    }
    return x;
}

static void products() {
    cublasHandle_t handle;
    OK(cublasCreate(&handle));
    OK(cublasSetStream(handle, nullptr));
    struct Types {
        cudaDataType_t in, out;
        cublasComputeType_t compute;
    };
    for (Types t : {Types{CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F}, Types{CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F},
                    Types{CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F}, Types{CUDA_R_16BF, CUDA_R_32F, CUBLAS_COMPUTE_32F}})
        for (int ta = 0; ta < 2; ta++)
            for (int tb = 0; tb < 2; tb++)
                for (auto [m, n, k] : {std::array<int, 3>{1, 1, 1}, {17, 5, 33}, {130, 140, 300}, {64, 1, 3}}) {
                    const int batch = 2, lda = (ta ? k : m) + 3, ldb = (tb ? n : k) + 1, ldc = m + 2;
                    const long long sa = lda * (ta ? m : k) + 5, sb = ldb * (tb ? k : n), sc = ldc * n + 1;
                    auto a = numbers(sa * batch, t.in, 1), b = numbers(sb * batch, t.in, 2), c = numbers(sc * batch, t.out, 3);
                    CUdeviceptr da = upload(a), db = upload(b), dc = upload(c);
                    for (double beta : {0.0, 0.5}) {
                        OK(cuMemcpyHtoD(dc, c.data(), c.size()));
                        double alpha64 = 1.5, beta64 = beta;
                        float alpha32 = 1.5f, beta32 = float(beta);
                        const bool wide = t.compute == CUBLAS_COMPUTE_64F;
                        OK(cublasGemmStridedBatchedEx(
                            handle, ta ? CUBLAS_OP_T : CUBLAS_OP_N, tb ? CUBLAS_OP_T : CUBLAS_OP_N, m, n, k,
                            wide ? static_cast<void*>(&alpha64) : &alpha32, reinterpret_cast<void*>(da), t.in, lda, sa,
                            reinterpret_cast<void*>(db), t.in, ldb, sb, wide ? static_cast<void*>(&beta64) : &beta32,
                            reinterpret_cast<void*>(dc), t.out, ldc, sc, batch, t.compute, CUBLAS_GEMM_DEFAULT));
                        auto got = download<uint8_t>(dc, c.size());
                        for (int x = 0; x < batch; x++)
                            for (int j = 0; j < n; j++)
                                for (int i = 0; i < m; i++) {
                                    double sum = 0;
                                    for (int d = 0; d < k; d++)
                                        sum += at(a, t.in, x * sa + (ta ? d + i * lda : i + d * lda)) *
                                               at(b, t.in, x * sb + (tb ? j + d * ldb : d + j * ldb));
                                    const size_t place = x * sc + i + j * ldc;
                                    double want = 1.5 * sum + beta * at(c, t.out, place);
                                    double tolerance = t.out == CUDA_R_16BF ? std::fabs(want) / 256 + 1e-3 : 1e-3;
                                    CHECK(std::fabs(at(got, t.out, place) - want) <= tolerance);
                                }
                        // what is between the columns stays
                        CHECK(at(got, t.out, size_t(m)) == at(c, t.out, size_t(m)));
                    }
                    for (CUdeviceptr p : {da, db, dc}) OK(cuMemFree(p));
                }
    OK(cublasDestroy(handle));
}

static void wrong(const std::string& name) {
    CUdeviceptr x = zeros(4096), fresh = empty(4096), y = zeros(8192);
    if (name == "wrong_barrier") launch("wrong_barrier", 1, 64, 0, x);
    if (name == "wrong_no_barrier") {
        launch("wrong_no_barrier", 1, 64, 0, x);
        // without a checked run the result shows it
        auto out = download<float>(x, 64);
        for (int i = 0; i < 64; i++)
            if (out[i] != float(63 - i)) exit(3);
    }
    if (name == "wrong_mask") launch("wrong_mask", 1, 32, 0, x);
    if (name == "wrong_end") launch("wrong_end", 1, 32, 0, x, 1024);
    if (name == "wrong_shared_end") launch("wrong_shared_end", 1, 32, 0, x, 17);
    if (name == "wrong_sum") launch("wrong_sum", 1, 64, 0, x);
    if (name == "wrong_blocks") launch("wrong_blocks", 8, 1, 0, x);
    if (name == "wrong_uninitialized") launch("wrong_uninitialized", 1, 64, 0, fresh, x);
    if (name == "wrong_alignment") launch("wrong_alignment", 1, 64, 0, y, x);
    if (name == "wrong_copy") {
        std::vector<char> a(8192);
        cuMemcpyHtoD(x, a.data(), a.size());
    }
    if (name == "wrong_pinned") {
        char* p;
        OK(cuMemHostAlloc(reinterpret_cast<void**>(&p), 64, 0));
        memset(p, 1, 64);
        OK(cuMemcpyHtoDAsync(x, p, 64, nullptr));
        memset(p, 2, 64);
        cuStreamSynchronize(nullptr);
    }
    for (CUdeviceptr p : {x, fresh, y}) OK(cuMemFree(p));
}

int main(int count, char** arguments) {
    std::string ptx = "// names as in PTX\n";
    for (const char* n : names)
        ptx += std::string(".visible .entry ") + n + "(\n.param .u64 a\n)\n" +
               (!strcmp(n, "sum_rows") ? ".maxntid 256, 1, 1\n" : "") + "{\nret;\n}\n";
    OK(cuInit(0));
    CUdevice device;
    OK(cuDeviceGet(&device, 0));
    CUcontext context;
    OK(cuDevicePrimaryCtxRetain(&context, device));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module_, ptx.c_str()));
    if (count > 1 && !strcmp(arguments[1], "speed")) {
        const size_t n = 10000000;
        CUdeviceptr x = zeros(n * 4), out = zeros(40000);
        clock_t start = clock();
        OK(launch("scale_f32", (n + 255) / 256, 256, 0, x, x, 0.5f, n));
        clock_t middle = clock();
        OK(launch("sum_rows", 10000, 256, 0, x, out, 1000));
        clock_t end = clock();
        printf("%.1f ns for each thread that does not wait, %.1f for one of a block's sum\n",
               double(middle - start) / CLOCKS_PER_SEC * 1e9 / n,
               double(end - middle) / CLOCKS_PER_SEC * 1e9 / 2560000);
        cublasHandle_t handle;
        OK(cublasCreate(&handle));
        float one = 1.0f, zero = 0.0f;
        CUdeviceptr c = zeros(2000 * 1000 * 4);
        clock_t before = clock();
        OK(cublasSgemm(handle, CUBLAS_OP_T, CUBLAS_OP_N, 2000, 1000, 512, &one, reinterpret_cast<float*>(x), 512,
                       reinterpret_cast<float*>(x), 512, &zero, reinterpret_cast<float*>(c), 2000));
        printf("products: %.1f GFLOP/s\n", 2.0 * 2000 * 1000 * 512 / (double(clock() - before) / CLOCKS_PER_SEC) / 1e9);
        return 0;
    }
    if (count > 1) {
        wrong(arguments[1]);
        return 0;
    }
    kernels();
    limits();
    products();
    puts("emulated GPU: all as expected");
}
