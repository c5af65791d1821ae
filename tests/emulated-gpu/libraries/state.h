// What the parts of the stand-in for libcuda know of each other.
#pragma once
#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "interface.h"

namespace driver {

// ---- stats.cpp
void count_launch(const char* kernel);

// ---- memory.cpp
// bytes of the device (EMULATED_GPU_MEMORY), and of live allocations
size_t memory_total();
size_t memory_used();
// the most that was in use at a time
size_t memory_most();

// ---- copies.cpp
// Position in the order of all work, for events; what was copied to or from pinned memory before it is complete once
// somebody has waited for it.
uint64_t work_position();
void wait_for_work(uint64_t position);

// ---- launch.cpp
// The library of kernels, plain or checked; loaded at the first use.
struct Kernels {
    const KernelEntry* entries;
    size_t count;
    void (*run)(const KernelLaunch*);
    void (*wrote)(uintptr_t, size_t);
    void (*forget)(uintptr_t, size_t);
    void (*read)(uintptr_t, size_t, const char*);
    bool checked;
};
const Kernels& kernels();
// null as long as nothing needed the kernels
const Kernels* kernels_if_loaded();
constexpr size_t kSharedPlain = 48 << 10;
constexpr size_t kSharedMost = 227 << 10;

}  // namespace driver

// One function of a loaded module.
struct CUfunc_st {
    std::string name;
    // null: the emulation does not have it
    const KernelEntry* entry = nullptr;
    // from PTX: threads per block that it was compiled for, 0 if any
    unsigned most_threads = 0;
    size_t dynamic_shared = driver::kSharedPlain;
};
