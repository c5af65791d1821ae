// Device memory: memory of the host that nobody has written to is filled with 0xFF (NaN), so that reading it shows.
// EMULATED_GPU_GUARD=1 puts every allocation between pages that cannot be touched.
#include <malloc.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "state.h"

namespace {

constexpr size_t kPage = 4096;
constexpr unsigned char kUnwritten = 0xFF;
constexpr unsigned char kSlack = 0xA5;

struct Allocation {
    size_t size;
    // the whole mapping, or null if from the heap
    char* mapping;
    size_t mapped;
};

struct Memory {
    std::mutex mutex;
    std::map<uintptr_t, Allocation> live;
    size_t used = 0;
    size_t most = 0;
    size_t total = size_t(8) << 30;
    bool guard = false;

    Memory() {
        if (const char* text = getenv("EMULATED_GPU_MEMORY")) {
            total = strtoull(text, nullptr, 10);
            if (total == 0) emulated_gpu_fail("EMULATED_GPU_MEMORY is a number of bytes, not %s", text);
        }
        const char* text = getenv("EMULATED_GPU_GUARD");
        guard = text && !strcmp(text, "1");
        // what is freed is soon wanted again
        mallopt(M_MMAP_THRESHOLD, 1 << 30);
        mallopt(M_TRIM_THRESHOLD, 1 << 30);
    }
};

Memory& memory() {
    static Memory* all = new Memory;
    return *all;
}

// the allocation that holds an address, or end()
std::map<uintptr_t, Allocation>::iterator find(uintptr_t address) {
    auto& live = memory().live;
    auto after = live.upper_bound(address);
    if (after == live.begin()) return live.end();
    --after;
    return address < after->first + after->second.size ? after : live.end();
}

CUresult allocate(CUdeviceptr* pointer, size_t size, const char* call) {
    if (!pointer || size == 0) return CUDA_ERROR_INVALID_VALUE;
    emulated_gpu_count(call, size);
    Memory& m = memory();
    std::lock_guard<std::mutex> guard(m.mutex);
    // the device gives whole pieces of 512 bytes
    if (m.used + (size + 511) / 512 * 512 > m.total) return CUDA_ERROR_OUT_OF_MEMORY;
    Allocation a{size, nullptr, 0};
    char* start;
    if (m.guard) {
        // ends at a guard page, up to the 16 bytes to which the widest loads must be aligned
        size_t whole = (size + 15) / 16 * 16;
        a.mapped = (whole + kPage - 1) / kPage * kPage + 2 * kPage;
        void* mapping = mmap(nullptr, a.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapping == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
        a.mapping = static_cast<char*>(mapping);
        mprotect(a.mapping, kPage, PROT_NONE);
        mprotect(a.mapping + a.mapped - kPage, kPage, PROT_NONE);
        start = a.mapping + a.mapped - kPage - whole;
        memset(start + size, kSlack, whole - size);
    } else {
        start = static_cast<char*>(aligned_alloc(256, (size + 255) / 256 * 256));
        if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memset(start, kUnwritten, size);
    m.used += (size + 511) / 512 * 512;
    if (m.used > m.most) m.most = m.used;
    m.live.emplace(reinterpret_cast<uintptr_t>(start), a);
    *pointer = reinterpret_cast<CUdeviceptr>(start);
    return CUDA_SUCCESS;
}

CUresult release(CUdeviceptr pointer, const char* call) {
    if (pointer == 0) return CUDA_SUCCESS;
    Memory& m = memory();
    std::lock_guard<std::mutex> guard(m.mutex);
    auto found = m.live.find(pointer);
    if (found == m.live.end()) emulated_gpu_fail("%s of %#llx, which is no allocation", call, (unsigned long long)pointer);
    const Allocation a = found->second;
    m.live.erase(found);
    emulated_gpu_count(call, a.size);
    m.used -= (a.size + 511) / 512 * 512;
    if (const driver::Kernels* k = driver::kernels_if_loaded()) k->forget(pointer, a.size);
    char* start = reinterpret_cast<char*>(pointer);
    if (a.mapping) {
        for (char* p = start + a.size; p < a.mapping + a.mapped - kPage; p++)
            if (static_cast<unsigned char>(*p) != kSlack)
                emulated_gpu_fail("written past the end of an allocation of %zu bytes", a.size);
        munmap(a.mapping, a.mapped);
    } else {
        memset(start, kUnwritten, a.size);
        free(start);
    }
    return CUDA_SUCCESS;
}

}  // namespace

size_t driver::memory_total() { return memory().total; }
size_t driver::memory_most() {
    std::lock_guard<std::mutex> lock(memory().mutex);
    return memory().most;
}
size_t driver::memory_used() {
    std::lock_guard<std::mutex> guard(memory().mutex);
    return memory().used;
}

bool emulated_gpu_find_range(uintptr_t address, DeviceRange* range) {
    std::lock_guard<std::mutex> guard(memory().mutex);
    auto found = find(address);
    if (found == memory().live.end()) return false;
    *range = {found->first, found->second.size};
    return true;
}

void emulated_gpu_check_range(uintptr_t address, size_t size, const char* what) {
    if (size == 0) return;
    DeviceRange range;
    if (!emulated_gpu_find_range(address, &range))
        emulated_gpu_fail("%s: %#zx is no address of the device", what, size_t(address));
    if (address + size > range.start + range.size)
        emulated_gpu_fail("%s: %zu bytes from byte %zu of an allocation of %zu", what, size, size_t(address - range.start),
                          range.size);
}

CUresult cuMemAlloc(CUdeviceptr* pointer, size_t size) { return allocate(pointer, size, "cuMemAlloc"); }
CUresult cuMemAllocAsync(CUdeviceptr* pointer, size_t size, CUstream) {
    return allocate(pointer, size, "cuMemAllocAsync");
}
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* pointer, size_t size, CUmemoryPool, CUstream) {
    return allocate(pointer, size, "cuMemAllocFromPoolAsync");
}
CUresult cuMemFree(CUdeviceptr pointer) { return release(pointer, "cuMemFree"); }
CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream) { return release(pointer, "cuMemFreeAsync"); }

CUresult cuMemGetInfo(size_t* available, size_t* total) {
    *total = driver::memory_total();
    *available = *total - driver::memory_used();
    return CUDA_SUCCESS;
}

// ---- pools: there is one, which keeps nothing
static CUmemoryPool the_pool() { return reinterpret_cast<CUmemoryPool>(0x10); }
CUresult cuDeviceGetDefaultMemPool(CUmemoryPool* pool, CUdevice) {
    *pool = the_pool();
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetMemPool(CUmemoryPool* pool, CUdevice) {
    *pool = the_pool();
    return CUDA_SUCCESS;
}
CUresult cuDeviceSetMemPool(CUdevice, CUmemoryPool pool) {
    return pool == the_pool() ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemPoolTrimTo(CUmemoryPool, size_t) { return CUDA_SUCCESS; }
CUresult cuMemPoolSetAttribute(CUmemoryPool, CUmemPool_attribute, void*) { return CUDA_SUCCESS; }
CUresult cuMemPoolGetAttribute(CUmemoryPool, CUmemPool_attribute attribute, void* value) {
    switch (attribute) {
        case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
            *static_cast<cuuint64_t*>(value) = driver::memory_used();
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
            *static_cast<cuuint64_t*>(value) = driver::memory_most();
            return CUDA_SUCCESS;
        case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD:
            *static_cast<cuuint64_t*>(value) = 0;
            return CUDA_SUCCESS;
        default:
            return CUDA_ERROR_NOT_SUPPORTED;
    }
}
