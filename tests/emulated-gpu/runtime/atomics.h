// Atomic operations: one thread runs at a time, so that they are plain ones; a checked build is told that they are none.
#pragma once
#include <type_traits>

#include "check.h"

namespace emulate {

template <typename T, typename F>
__attribute__((always_inline, no_sanitize("thread"))) inline T atomically(T* address, F change) {
    check_atomic(address, sizeof(T));
    T old = *address;
    *address = change(old);
    return old;
}

template <typename T>
struct Same {
    using type = T;
};

}  // namespace emulate

// The types for which CUDA has the operation, so that no other compiles here.
#define EMULATED_GPU_ATOMIC(name, type, expression)                                                    \
    __attribute__((no_sanitize("thread"))) inline type name(type* address, type value) {               \
        return emulate::atomically(address, [&](type old) __attribute__((no_sanitize("thread"))) -> type { \
            return expression;                                                                         \
        });                                                                                            \
    }                                                                                                  \
    inline type name##_block(type* address, type value) { return name(address, value); }               \
    inline type name##_system(type* address, type value) { return name(address, value); }

EMULATED_GPU_ATOMIC(atomicAdd, int, int(unsigned(old) + unsigned(value)))
EMULATED_GPU_ATOMIC(atomicAdd, unsigned, old + value)
EMULATED_GPU_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATED_GPU_ATOMIC(atomicAdd, float, old + value)
EMULATED_GPU_ATOMIC(atomicAdd, double, old + value)
EMULATED_GPU_ATOMIC(atomicAdd, __nv_bfloat16, __float2bfloat16_rn(__bfloat162float(old) + __bfloat162float(value)))
EMULATED_GPU_ATOMIC(atomicAdd, __half, __float2half_rn(__half2float(old) + __half2float(value)))
EMULATED_GPU_ATOMIC(atomicSub, int, int(unsigned(old) - unsigned(value)))
EMULATED_GPU_ATOMIC(atomicSub, unsigned, old - value)
EMULATED_GPU_ATOMIC(atomicExch, int, value)
EMULATED_GPU_ATOMIC(atomicExch, unsigned, value)
EMULATED_GPU_ATOMIC(atomicExch, unsigned long long, value)
EMULATED_GPU_ATOMIC(atomicExch, float, value)
EMULATED_GPU_ATOMIC(atomicMax, int, old > value ? old : value)
EMULATED_GPU_ATOMIC(atomicMax, unsigned, old > value ? old : value)
EMULATED_GPU_ATOMIC(atomicMax, long long, old > value ? old : value)
EMULATED_GPU_ATOMIC(atomicMax, unsigned long long, old > value ? old : value)
EMULATED_GPU_ATOMIC(atomicMin, int, old < value ? old : value)
EMULATED_GPU_ATOMIC(atomicMin, unsigned, old < value ? old : value)
EMULATED_GPU_ATOMIC(atomicMin, long long, old < value ? old : value)
EMULATED_GPU_ATOMIC(atomicMin, unsigned long long, old < value ? old : value)
EMULATED_GPU_ATOMIC(atomicAnd, int, old& value)
EMULATED_GPU_ATOMIC(atomicAnd, unsigned, old& value)
EMULATED_GPU_ATOMIC(atomicAnd, unsigned long long, old& value)
EMULATED_GPU_ATOMIC(atomicOr, int, old | value)
EMULATED_GPU_ATOMIC(atomicOr, unsigned, old | value)
EMULATED_GPU_ATOMIC(atomicOr, unsigned long long, old | value)
EMULATED_GPU_ATOMIC(atomicXor, int, old ^ value)
EMULATED_GPU_ATOMIC(atomicXor, unsigned, old ^ value)
EMULATED_GPU_ATOMIC(atomicXor, unsigned long long, old ^ value)
EMULATED_GPU_ATOMIC(atomicInc, unsigned, old >= value ? 0 : old + 1)
EMULATED_GPU_ATOMIC(atomicDec, unsigned, old == 0 || old > value ? value : old - 1)

#define EMULATED_GPU_CAS(type)                                                                             \
    inline type atomicCAS(type* address, type compare, type value) {                                       \
        return emulate::atomically(address, [&](type old) __attribute__((no_sanitize("thread"))) -> type { \
            return old == compare ? value : old;                                                           \
        });                                                                                                \
    }
EMULATED_GPU_CAS(int)
EMULATED_GPU_CAS(unsigned)
EMULATED_GPU_CAS(unsigned long long)
EMULATED_GPU_CAS(unsigned short)
