#include "registry.h"

#include <vector>

namespace emulate {
namespace {
std::vector<KernelEntry>& entries() {
    static std::vector<KernelEntry> all;
    return all;
}
}  // namespace

void register_kernel(const char* source, const char* name, void (*call)(void**)) {
    entries().push_back({source, name, call});
}
}  // namespace emulate

extern "C" const KernelEntry* emulated_gpu_kernels(size_t* count) {
    *count = emulate::entries().size();
    return emulate::entries().data();
}
