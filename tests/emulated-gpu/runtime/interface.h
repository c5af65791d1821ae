// What the stand-in for libcuda and the library of compiled kernels know of each other.
#pragma once
#include <cstddef>
#include <cstdint>

// One kernel of one source file. `call` runs it for the current thread with CUDA's array of argument addresses.
struct KernelEntry {
    const char* source;
    const char* name;
    void (*call)(void** arguments);
};

struct KernelLaunch {
    const KernelEntry* kernel;
    unsigned grid[3];
    unsigned block[3];
    size_t dynamic_shared;
    // bytes of static and dynamic shared memory that the device allows
    size_t shared_limit;
    void** arguments;
};

// What the kernels' library asks of libcuda: the allocation that holds an address, for checked runs.
struct DeviceRange {
    uintptr_t start;
    size_t size;
};

// the rest of the kernels' library is hidden
#pragma GCC visibility push(default)
extern "C" {
// in the kernels' library
const KernelEntry* emulated_gpu_kernels(size_t* count);
void emulated_gpu_run(const KernelLaunch* launch);
// a checked build remembers which bytes of device memory were written: by the host, a library, or not at all any more
void emulated_gpu_wrote(uintptr_t start, size_t size);
void emulated_gpu_forget(uintptr_t start, size_t size);
// fails if a library reads what was not written
void emulated_gpu_read(uintptr_t start, size_t size, const char* what);

// in libcuda
bool emulated_gpu_find_range(uintptr_t address, DeviceRange* range);
// aborts unless [address, address + size) lies in one live allocation
void emulated_gpu_check_range(uintptr_t address, size_t size, const char* what);
// what a library read or wrote: `columns` pieces of `bytes`, their starts `leading` bytes apart
void emulated_gpu_library_read(uintptr_t start, size_t bytes, size_t columns, size_t leading, const char* what);
void emulated_gpu_library_wrote(uintptr_t start, size_t bytes, size_t columns, size_t leading);
void emulated_gpu_count(const char* what, size_t bytes);
[[noreturn]] void emulated_gpu_fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
}
#pragma GCC visibility pop
