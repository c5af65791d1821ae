// Hooks of the checked build (check.cpp); nothing in the plain one.
#pragma once
#include <cstdint>

namespace emulate {

#ifdef EMULATED_GPU_CHECKED
void check_launch_begin();
void check_block_begin();
void check_warp_sync(unsigned first_thread, unsigned lanes);
// atomic operations are no races with each other
void check_atomic(const void* address, unsigned size);
void check_fence();
#else
inline void check_launch_begin() {}
inline void check_block_begin() {}
inline void check_warp_sync(unsigned, unsigned) {}
inline void check_atomic(const void*, unsigned) {}
inline void check_fence() {}
#endif

}  // namespace emulate
