// Functions of half-precision numbers that the toolkit's headers have for device code only: by way of float.
#pragma once

#include "emulate.h"

#define EMULATED_GPU_HALF(name, expression)                                                                    \
    inline __half name(__half a) { float x = __half2float(a); return __float2half_rn(expression); }            \
    inline __nv_bfloat16 name(__nv_bfloat16 a) { float x = __bfloat162float(a); return __float2bfloat16_rn(expression); }
EMULATED_GPU_HALF(hsqrt, sqrtf(x))
EMULATED_GPU_HALF(hrsqrt, emulate::reciprocal_root(x))
EMULATED_GPU_HALF(hrcp, 1.0f / x)
EMULATED_GPU_HALF(hcos, cosf(x))
EMULATED_GPU_HALF(hsin, sinf(x))
EMULATED_GPU_HALF(hlog, logf(x))
EMULATED_GPU_HALF(hexp, expf(x))
EMULATED_GPU_HALF(hfloor, floorf(x))
EMULATED_GPU_HALF(hceil, ceilf(x))
