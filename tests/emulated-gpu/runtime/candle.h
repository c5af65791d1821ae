// Included before candle's own kernels: what they use beyond emulate.h.
#pragma once
#include <cuda/std/limits>

#include "emulate.h"
#include "half_functions.h"
