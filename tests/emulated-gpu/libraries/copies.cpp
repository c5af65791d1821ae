// Copies and fills. All is done at once, with two exceptions that show a missing wait: what an asynchronous copy writes
// to pinned memory arrives when somebody waits for it, and until then what was copied from pinned memory must not change.
#include <cstdlib>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <vector>

#include "state.h"

namespace {

struct Pending {
    uint64_t position;
    // in pinned memory
    char* host;
    std::vector<char> bytes;
    bool to_host;
};

struct Copies {
    std::mutex mutex;
    uint64_t position = 0;
    std::list<Pending> pending;
    std::map<uintptr_t, size_t> pinned;
};

Copies& copies() {
    static Copies* all = new Copies;
    return *all;
}

bool is_pinned(const void* pointer) {
    auto address = reinterpret_cast<uintptr_t>(pointer);
    auto after = copies().pinned.upper_bound(address);
    if (after == copies().pinned.begin()) return false;
    --after;
    return address < after->first + after->second;
}

void wrote(CUdeviceptr pointer, size_t size) {
    const driver::Kernels& k = driver::kernels();
    if (k.checked) k.wrote(pointer, size);
}

void complete(Pending& p) {
    if (p.to_host)
        memcpy(p.host, p.bytes.data(), p.bytes.size());
    else if (memcmp(p.host, p.bytes.data(), p.bytes.size()))
        emulated_gpu_fail("pinned memory was changed before its copy to the device was waited for");
}

CUresult to_device(CUdeviceptr to, const void* from, size_t size, bool at_once) {
    emulated_gpu_count(at_once ? "copy to device, waited" : "copy to device", size);
    if (size == 0) return CUDA_SUCCESS;
    emulated_gpu_check_range(to, size, "copy to the device");
    memcpy(reinterpret_cast<void*>(to), from, size);
    wrote(to, size);
    Copies& c = copies();
    std::lock_guard<std::mutex> guard(c.mutex);
    c.position++;
    if (!at_once && is_pinned(from)) {
        const char* start = static_cast<const char*>(from);
        c.pending.push_back({c.position, const_cast<char*>(start), std::vector<char>(start, start + size), false});
    }
    return CUDA_SUCCESS;
}

CUresult to_host(void* to, CUdeviceptr from, size_t size, bool at_once) {
    emulated_gpu_count(at_once ? "copy to host, waited" : "copy to host", size);
    if (size == 0) return CUDA_SUCCESS;
    emulated_gpu_check_range(from, size, "copy to the host");
    Copies& c = copies();
    const char* start = reinterpret_cast<const char*>(from);
    {
        std::lock_guard<std::mutex> guard(c.mutex);
        c.position++;
        if (!at_once && is_pinned(to)) {
            c.pending.push_back({c.position, static_cast<char*>(to), std::vector<char>(start, start + size), true});
            memset(to, 0xFF, size);
            return CUDA_SUCCESS;
        }
    }
    memcpy(to, start, size);
    return CUDA_SUCCESS;
}

CUresult on_device(CUdeviceptr to, CUdeviceptr from, size_t size) {
    emulated_gpu_count("copy on device", size);
    if (size == 0) return CUDA_SUCCESS;
    emulated_gpu_check_range(from, size, "copy on the device, source");
    emulated_gpu_check_range(to, size, "copy on the device, target");
    if (to < from + size && from < to + size) emulated_gpu_fail("copy on the device: source and target overlap");
    memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size);
    wrote(to, size);
    return CUDA_SUCCESS;
}

template <typename T>
CUresult fill(CUdeviceptr to, T value, size_t count) {
    emulated_gpu_count("fill", count * sizeof(T));
    if (count == 0) return CUDA_SUCCESS;
    if (to % sizeof(T)) return CUDA_ERROR_INVALID_VALUE;
    emulated_gpu_check_range(to, count * sizeof(T), "fill");
    T* start = reinterpret_cast<T*>(to);
    for (size_t i = 0; i < count; i++) start[i] = value;
    wrote(to, count * sizeof(T));
    return CUDA_SUCCESS;
}

}  // namespace

void emulated_gpu_library_read(uintptr_t start, size_t bytes, size_t columns, size_t leading, const char* what) {
    const driver::Kernels& k = driver::kernels();
    if (k.checked)
        for (size_t c = 0; c < columns; c++) k.read(start + c * leading, bytes, what);
}
void emulated_gpu_library_wrote(uintptr_t start, size_t bytes, size_t columns, size_t leading) {
    const driver::Kernels& k = driver::kernels();
    if (k.checked)
        for (size_t c = 0; c < columns; c++) k.wrote(start + c * leading, bytes);
}

uint64_t driver::work_position() {
    std::lock_guard<std::mutex> guard(copies().mutex);
    return copies().position;
}

void driver::wait_for_work(uint64_t position) {
    Copies& c = copies();
    std::lock_guard<std::mutex> guard(c.mutex);
    while (!c.pending.empty() && c.pending.front().position <= position) {
        complete(c.pending.front());
        c.pending.pop_front();
    }
}

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t size) { return to_device(to, from, size, true); }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t size, CUstream) {
    return to_device(to, from, size, false);
}
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t size) {
    driver::wait_for_work(~uint64_t(0));
    return to_host(to, from, size, true);
}
CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t size, CUstream) { return to_host(to, from, size, false); }
CUresult cuMemcpyDtoD(CUdeviceptr to, CUdeviceptr from, size_t size) { return on_device(to, from, size); }
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream) { return on_device(to, from, size); }

CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t count) { return fill(to, value, count); }
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream) { return fill(to, value, count); }
CUresult cuMemsetD16(CUdeviceptr to, unsigned short value, size_t count) { return fill(to, value, count); }
CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream) { return fill(to, value, count); }
CUresult cuMemsetD32(CUdeviceptr to, unsigned value, size_t count) { return fill(to, value, count); }
CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream) { return fill(to, value, count); }

CUresult cuMemHostAlloc(void** pointer, size_t size, unsigned) {
    if (size == 0) return CUDA_ERROR_INVALID_VALUE;
    emulated_gpu_count("cuMemHostAlloc", size);
    *pointer = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (!*pointer) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(*pointer, 0xFF, size);
    std::lock_guard<std::mutex> guard(copies().mutex);
    copies().pinned[reinterpret_cast<uintptr_t>(*pointer)] = size;
    return CUDA_SUCCESS;
}
CUresult cuMemAllocHost(void** pointer, size_t size) { return cuMemHostAlloc(pointer, size, 0); }
CUresult cuMemFreeHost(void* pointer) {
    // waits for all work
    driver::wait_for_work(~uint64_t(0));
    std::lock_guard<std::mutex> guard(copies().mutex);
    if (!copies().pinned.erase(reinterpret_cast<uintptr_t>(pointer))) return CUDA_ERROR_INVALID_VALUE;
    free(pointer);
    return CUDA_SUCCESS;
}
CUresult cuMemHostRegister(void* pointer, size_t size, unsigned) {
    std::lock_guard<std::mutex> guard(copies().mutex);
    copies().pinned[reinterpret_cast<uintptr_t>(pointer)] = size;
    return CUDA_SUCCESS;
}
CUresult cuMemHostUnregister(void* pointer) {
    driver::wait_for_work(~uint64_t(0));
    std::lock_guard<std::mutex> guard(copies().mutex);
    return copies().pinned.erase(reinterpret_cast<uintptr_t>(pointer)) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
