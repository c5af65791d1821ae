// CUDA's functions of numbers that the C library does not have under the same name.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "check.h"
#include "interface.h"

// min and max of two numbers of any types, with CUDA's rules: floats by fmin, int and unsigned meet as unsigned
template <typename T>
constexpr bool is_number = std::is_arithmetic_v<T> || (std::is_enum_v<T> && std::is_convertible_v<T, int>);
template <typename A, typename B, typename = std::enable_if_t<is_number<A> && is_number<B>>>
constexpr auto min(A a, B b) {
    using T = decltype(true ? +a : +b);
    if constexpr (std::is_floating_point_v<T>)
        return T(std::fmin(T(a), T(b)));
    else
        return T(a) < T(b) ? T(a) : T(b);
}
template <typename A, typename B, typename = std::enable_if_t<is_number<A> && is_number<B>>>
constexpr auto max(A a, B b) {
    using T = decltype(true ? +a : +b);
    if constexpr (std::is_floating_point_v<T>)
        return T(std::fmax(T(a), T(b)));
    else
        return T(a) > T(b) ? T(a) : T(b);
}

namespace emulate {
template <typename To, typename From>
To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
inline float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
inline double reciprocal_root(double x) { return 1.0 / sqrt(x); }
// of x half turns; exact where the result is 0, 1 or -1
inline double sine_of_half_turns(double x) {
    x = fmod(x, 2.0);
    const double quarter = nearbyint(x * 2.0), rest = (x - quarter / 2.0) * M_PI;
    switch (int(quarter) & 3) {
        case 0: return sin(rest);
        case 1: return cos(rest);
        case 2: return -sin(rest);
        default: return -cos(rest);
    }
}
inline double cosine_of_half_turns(double x) { return sine_of_half_turns(fmod(fabs(x), 2.0) + 0.5); }
}  // namespace emulate

// newer C libraries declare these
#define sinpif(x) float(emulate::sine_of_half_turns(double(float(x))))
#define cospif(x) float(emulate::cosine_of_half_turns(double(float(x))))
#define sinpi(x) emulate::sine_of_half_turns(double(x))
#define cospi(x) emulate::cosine_of_half_turns(double(x))
#define rsqrtf(x) emulate::reciprocal_root(float(x))
#define rsqrt(x) emulate::reciprocal_root(double(x))

inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return powf(10.0f, x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log10f(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return emulate::reciprocal_root(x); }
inline float __fadd_rn(float x, float y) { volatile float r = x + y; return r; }
inline float __fsub_rn(float x, float y) { volatile float r = x - y; return r; }
inline float __fmul_rn(float x, float y) { volatile float r = x * y; return r; }
inline double __dadd_rn(double x, double y) { volatile double r = x + y; return r; }
inline double __dsub_rn(double x, double y) { volatile double r = x - y; return r; }
inline double __dmul_rn(double x, double y) { volatile double r = x * y; return r; }
inline double __ddiv_rn(double x, double y) { return x / y; }
inline double __fma_rn(double x, double y, double z) { return fma(x, y, z); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float fdividef(float x, float y) { return x / y; }
inline float normcdff(float x) { return 0.5f * erfcf(-x * float(M_SQRT1_2)); }
inline double normcdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
inline float rcbrtf(float x) { return 1.0f / cbrtf(x); }

inline unsigned __float_as_uint(float x) { return emulate::bits<unsigned>(x); }
inline int __float_as_int(float x) { return emulate::bits<int>(x); }
inline float __uint_as_float(unsigned x) { return emulate::bits<float>(x); }
inline float __int_as_float(int x) { return emulate::bits<float>(x); }
inline long long __double_as_longlong(double x) { return emulate::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return emulate::bits<double>(x); }

// conversions saturate on the device, NaN becomes zero
template <typename To>
To emulated_to_integer(double x, double low, double above) {
    if (x != x) return 0;
    if (x < low) return To(low);
    if (x >= above) return To(~To(0)) > To(0) ? To(~To(0)) : To(above - 1);
    return To(x);
}
inline int __float2int_rn(float x) { return emulated_to_integer<int>(nearbyintf(x), -2147483648.0, 2147483648.0); }
inline int __float2int_rz(float x) { return emulated_to_integer<int>(truncf(x), -2147483648.0, 2147483648.0); }
inline int __float2int_rd(float x) { return emulated_to_integer<int>(floorf(x), -2147483648.0, 2147483648.0); }
inline int __float2int_ru(float x) { return emulated_to_integer<int>(ceilf(x), -2147483648.0, 2147483648.0); }
inline unsigned __float2uint_rn(float x) { return emulated_to_integer<unsigned>(nearbyintf(x), 0.0, 4294967296.0); }
inline unsigned __float2uint_rz(float x) { return emulated_to_integer<unsigned>(truncf(x), 0.0, 4294967296.0); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline float __ull2float_rn(unsigned long long x) { return float(x); }
inline double __uint2double_rn(unsigned x) { return double(x); }
inline float __double2float_rn(double x) { return float(x); }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(static_cast<unsigned __int128>(a) * b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (x >> i & 1) << (31 - i);
    return r;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((uint64_t(high) << 32 | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
    uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        unsigned s = selector >> (4 * i);
        unsigned byte = unsigned(bytes >> (8 * (s & 7))) & 0xFF;
        if (s & 8) byte = byte & 0x80 ? 0xFF : 0;
        r |= byte << (8 * i);
    }
    return r;
}

// loads and stores with a hint for the caches
#define EMULATED_GPU_LOAD(name) \
    template <typename T>       \
    T name(const T* p) {        \
        return *p;              \
    }
EMULATED_GPU_LOAD(__ldg)
EMULATED_GPU_LOAD(__ldca)
EMULATED_GPU_LOAD(__ldcg)
EMULATED_GPU_LOAD(__ldcs)
EMULATED_GPU_LOAD(__ldcv)
EMULATED_GPU_LOAD(__ldlu)
#define EMULATED_GPU_STORE(name)        \
    template <typename T, typename U>   \
    void name(T* p, const U& value) {   \
        *p = value;                     \
    }
EMULATED_GPU_STORE(__stcg)
EMULATED_GPU_STORE(__stcs)
EMULATED_GPU_STORE(__stwb)
EMULATED_GPU_STORE(__stwt)

// what one thread writes is seen by all at once; a checked run wants to know
inline void __threadfence() { emulate::check_fence(); }
inline void __threadfence_block() {}
inline void __threadfence_system() { emulate::check_fence(); }
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { emulated_gpu_fail("%s: __trap", emulate::where()); }
