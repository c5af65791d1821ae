// Launches of kernels, with the limits that the device has.
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>

#include "state.h"

namespace {

std::atomic<const driver::Kernels*> loaded{nullptr};
// the kernel that runs, for the message of a fault
const char* running_kernel;

struct sigaction previous_fault;

// An address that nobody has: says which kernel it was, then leaves it to whoever handled faults before.
void fault(int signal, siginfo_t* info, void*) {
    if (running_kernel) {
        char text[512];
        int n = snprintf(text, sizeof text, "emulated GPU: kernel %s touches %p, which is not its memory\n", running_kernel,
                         info->si_addr);
        if (write(2, text, n) < 0) {
        }
    }
    sigaction(signal, &previous_fault, nullptr);
}

void* symbol(void* library, const char* name) {
    void* found = dlsym(library, name);
    if (!found) emulated_gpu_fail("the library of kernels has no %s", name);
    return found;
}

const driver::Kernels* load() {
    const char* check = getenv("EMULATED_GPU_CHECK");
    bool checked = check && !strcmp(check, "1");
    Dl_info self;
    if (!dladdr(reinterpret_cast<void*>(&load), &self)) emulated_gpu_fail("where is libcuda.so.1?");
    std::string path(self.dli_fname);
    path.resize(path.find_last_of('/') + 1);
    path += checked ? "libemulated-kernels-checked.so" : "libemulated-kernels-plain.so";
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) emulated_gpu_fail("%s", dlerror());
    auto* k = new driver::Kernels;
    auto list = reinterpret_cast<const KernelEntry* (*)(size_t*)>(symbol(library, "emulated_gpu_kernels"));
    k->entries = list(&k->count);
    k->run = reinterpret_cast<void (*)(const KernelLaunch*)>(symbol(library, "emulated_gpu_run"));
    k->wrote = reinterpret_cast<void (*)(uintptr_t, size_t)>(symbol(library, "emulated_gpu_wrote"));
    k->forget = reinterpret_cast<void (*)(uintptr_t, size_t)>(symbol(library, "emulated_gpu_forget"));
    k->read = reinterpret_cast<void (*)(uintptr_t, size_t, const char*)>(symbol(library, "emulated_gpu_read"));
    k->checked = checked;
    struct sigaction action {};
    action.sa_sigaction = fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_fault);
    return k;
}

}  // namespace

const driver::Kernels& driver::kernels() {
    static const Kernels* once = [] {
        const Kernels* k = load();
        loaded = k;
        return k;
    }();
    return *once;
}
const driver::Kernels* driver::kernels_if_loaded() { return loaded; }

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream, void** arguments, void** extra) {
    if (extra) emulated_gpu_fail("kernel %s: arguments in `extra` are not emulated", function->name.c_str());
    driver::count_launch(function->name.c_str());
    // a real launch fails with an error that may be read much later; here it is named at once
    auto refuse = [&](const char* what) {
        fprintf(stderr, "emulated GPU: launch of %s with grid (%u,%u,%u), block (%u,%u,%u), %u bytes of shared memory: %s\n",
                function->name.c_str(), grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, what);
        return CUDA_ERROR_INVALID_VALUE;
    };
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z) return refuse("nothing to run");
    if (grid_x > 2147483647u || grid_y > 65535 || grid_z > 65535) return refuse("the grid is too large");
    uint64_t threads = uint64_t(block_x) * block_y * block_z;
    if (threads > 1024 || block_z > 64) return refuse("the block is too large");
    if (function->most_threads && threads > function->most_threads) return refuse("more threads than its launch bounds");
    if (shared > function->dynamic_shared) return refuse("more shared memory than the function was given");
    if (!function->entry)
        emulated_gpu_fail("kernel %s is launched, but its source is not among those compiled", function->name.c_str());
    KernelLaunch launch{function->entry, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared,
                        driver::kSharedMost, arguments};
    running_kernel = function->name.c_str();
    driver::kernels().run(&launch);
    running_kernel = nullptr;
    return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
        if (value < 0 || size_t(value) > driver::kSharedMost) return CUDA_ERROR_INVALID_VALUE;
        function->dynamic_shared = size_t(value);
        return CUDA_SUCCESS;
    }
    return attribute == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    switch (attribute) {
        case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
            *value = function->most_threads ? int(function->most_threads) : 1024;
            return CUDA_SUCCESS;
        case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = int(function->dynamic_shared); return CUDA_SUCCESS;
        default: emulated_gpu_fail("attribute %d of a function is not emulated", int(attribute));
    }
}
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

static int resident(int threads, size_t shared) {
    int blocks = threads > 0 ? 2048 / ((threads + 31) / 32 * 32) : 0;
    size_t each = shared + 1024;
    int by_shared = int((size_t(228) << 10) / each);
    if (by_shared < blocks) blocks = by_shared;
    return blocks < 32 ? blocks : 32;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int threads, size_t shared) {
    *blocks = resident(threads, shared);
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction, int threads, size_t shared,
                                                              unsigned) {
    *blocks = resident(threads, shared);
    return CUDA_SUCCESS;
}
