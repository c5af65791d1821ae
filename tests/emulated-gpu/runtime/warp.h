// Barriers, shuffles and votes.
#pragma once
#include <cstring>
#include <type_traits>

#include "block.h"

#define EMULATED_GPU_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(EMULATED_GPU_PLACE) { emulate::block_barrier(emulate::Vote::None, 0, file, line); }
inline int __syncthreads_count(int p, EMULATED_GPU_PLACE) {
    return emulate::block_barrier(emulate::Vote::Count, p, file, line);
}
inline int __syncthreads_and(int p, EMULATED_GPU_PLACE) {
    return emulate::block_barrier(emulate::Vote::And, p, file, line);
}
inline int __syncthreads_or(int p, EMULATED_GPU_PLACE) { return emulate::block_barrier(emulate::Vote::Or, p, file, line); }

inline void __syncwarp(unsigned mask = 0xffffffff, EMULATED_GPU_PLACE) {
    emulate::warp_exchange(emulate::WarpKind::Sync, 0, mask, 0, 0, file, line);
}

namespace emulate {

template <typename T>
T shuffle(unsigned mask, T value, unsigned source, const char* file, int line) {
    static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "CUDA shuffles numbers of up to 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = warp_exchange(WarpKind::Shuffle, sizeof(T), mask, bits, source, file, line);
    memcpy(static_cast<void*>(&value), &bits, sizeof value);
    return value;
}

// the first lane of the segment of `width` lanes
inline unsigned segment(int width) { return lane() & ~(unsigned(width) - 1); }

}  // namespace emulate

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATED_GPU_PLACE) {
    return emulate::shuffle(mask, value, emulate::segment(width) + (unsigned(source) & (unsigned(width) - 1)), file, line);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, EMULATED_GPU_PLACE) {
    unsigned source = emulate::lane() ^ unsigned(lanes);
    // a lane of a later segment cannot be read, one of an earlier segment can
    if (source >= emulate::segment(width) + unsigned(width)) source = emulate::lane();
    return emulate::shuffle(mask, value, source, file, line);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_GPU_PLACE) {
    unsigned source = emulate::lane() + delta;
    if (source >= emulate::segment(width) + unsigned(width)) source = emulate::lane();
    return emulate::shuffle(mask, value, source, file, line);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATED_GPU_PLACE) {
    int source = int(emulate::lane()) - int(delta);
    if (source < int(emulate::segment(width))) source = int(emulate::lane());
    return emulate::shuffle(mask, value, unsigned(source), file, line);
}

inline unsigned __ballot_sync(unsigned mask, int p, EMULATED_GPU_PLACE) {
    return unsigned(emulate::warp_exchange(emulate::WarpKind::Ballot, 4, mask, p != 0, 0, file, line));
}
inline int __any_sync(unsigned mask, int p, EMULATED_GPU_PLACE) { return __ballot_sync(mask, p, file, line) != 0; }
inline int __all_sync(unsigned mask, int p, EMULATED_GPU_PLACE) { return __ballot_sync(mask, !p, file, line) == 0; }

template <typename T>
unsigned __match_any_sync(unsigned mask, T value, EMULATED_GPU_PLACE) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return unsigned(emulate::warp_exchange(emulate::WarpKind::Match, sizeof(T), mask, bits, 0, file, line));
}

#define EMULATED_GPU_REDUCE(name, type, wide, kind)                                                       \
    inline type name(unsigned mask, type value, EMULATED_GPU_PLACE) {                                     \
        return type(emulate::warp_exchange(emulate::WarpKind::kind, 4, mask, uint64_t(wide(value)), 0, file, line)); \
    }
EMULATED_GPU_REDUCE(__reduce_add_sync, unsigned, uint64_t, Add)
EMULATED_GPU_REDUCE(__reduce_add_sync, int, int64_t, Add)
EMULATED_GPU_REDUCE(__reduce_min_sync, unsigned, uint64_t, Min)
EMULATED_GPU_REDUCE(__reduce_min_sync, int, int64_t, MinSigned)
EMULATED_GPU_REDUCE(__reduce_max_sync, unsigned, uint64_t, Max)
EMULATED_GPU_REDUCE(__reduce_max_sync, int, int64_t, MaxSigned)
EMULATED_GPU_REDUCE(__reduce_and_sync, unsigned, uint64_t, And)
EMULATED_GPU_REDUCE(__reduce_or_sync, unsigned, uint64_t, Or)
EMULATED_GPU_REDUCE(__reduce_xor_sync, unsigned, uint64_t, Xor)
