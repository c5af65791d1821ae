// Where the cells of a checked run lie.
#include "shadow.h"

#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include "interface.h"
#include "shared.h"

namespace emulate {
namespace {

struct Range {
    uintptr_t start = 0;
    size_t size = 0;
    Cell* cells = nullptr;
};

std::recursive_mutex mutex;
std::unordered_map<uintptr_t, Range> ranges;
// those looked up last
Range recent[64];

Range* lookup(uintptr_t address) {
    Range& r = recent[address >> 12 & 63];
    if (address - r.start < r.size) return &r;
    DeviceRange found;
    if (!emulated_gpu_find_range(address, &found)) return nullptr;
    std::lock_guard<std::recursive_mutex> guard(mutex);
    Range& range = ranges[found.start];
    if (!range.cells) {
        range.start = found.start;
        range.size = found.size;
        range.cells = static_cast<Cell*>(calloc(found.size, sizeof(Cell)));
        if (!range.cells) emulated_gpu_fail("no memory for a checked run");
    }
    r = range;
    return &r;
}

}  // namespace

Cell* device_cells(uintptr_t address, size_t* left) {
    Range* range = lookup(address);
    if (!range) return nullptr;
    *left = range->start + range->size - address;
    return range->cells + (address - range->start);
}

Cell* shared_cells(uintptr_t address) {
    static Cell* cells = static_cast<Cell*>(calloc(kSharedArea, sizeof(Cell)));
    return cells + (address - shared_area());
}

}  // namespace emulate

using namespace emulate;

extern "C" void emulated_gpu_forget(uintptr_t start, size_t) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    auto found = ranges.find(start);
    if (found == ranges.end()) return;
    for (Range& r : recent)
        if (r.start == start) r = Range();
    free(found->second.cells);
    ranges.erase(found);
}

#ifdef EMULATED_GPU_CHECKED
extern "C" void emulated_gpu_wrote(uintptr_t start, size_t size) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    size_t left;
    Cell* cells = device_cells(start, &left);
    for (size_t i = 0; cells && i < size && i < left; i++) cells[i] = {{kHost, 0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0, 0}};
}
extern "C" void emulated_gpu_read(uintptr_t start, size_t size, const char* what) {
    std::lock_guard<std::recursive_mutex> guard(mutex);
    size_t left;
    const Cell* cells = device_cells(start, &left);
    for (size_t i = 0; cells && i < size && i < left; i++)
        if (cells[i].write.block == 0)
            emulated_gpu_fail("%s: byte %zu of %zu was never written", what, i, size);
}
#else
extern "C" void emulated_gpu_wrote(uintptr_t, size_t) {}
extern "C" void emulated_gpu_read(uintptr_t, size_t, const char*) {}
#endif
