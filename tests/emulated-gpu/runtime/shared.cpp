#include "shared.h"

#include <sys/mman.h>

#include <cstring>

#include "block.h"
#include "interface.h"

namespace emulate {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStatic = 48 << 10;
// room between two arrays that nobody may write to
constexpr size_t kGap = 64;
constexpr unsigned kMostSites = 256;
constexpr unsigned char kGapByte = 0xA5;

struct Piece {
    char* start;
    size_t size;
};

char* area;
char* static_base;
char* dynamic_end;
char* dynamic_base;
size_t dynamic_size, declared, allowed, used;
Piece pieces[kMostSites];
unsigned piece_count;

// Two areas, each between pages that must not be touched: the static one and the dynamic one, which ends at a page.
void prepare() {
    constexpr size_t first = kStatic * 2, second = 256 << 10;
    static_assert(first + second + 3 * kPage == kSharedArea);
    void* memory = mmap(nullptr, kSharedArea, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) emulated_gpu_fail("no memory for shared memory");
    area = static_cast<char*>(memory);
    mprotect(area, kPage, PROT_NONE);
    static_base = area + kPage;
    mprotect(static_base + first, kPage, PROT_NONE);
    dynamic_end = static_base + first + kPage + second;
    mprotect(dynamic_end, kPage, PROT_NONE);
}

}  // namespace

void shared_begin(size_t dynamic, size_t limit) {
    if (!static_base) prepare();
    dynamic_size = dynamic;
    allowed = limit;
    declared = 0;
    used = 0;
    piece_count = 0;
    dynamic_base = dynamic_end - (dynamic + 15) / 16 * 16;
    // undefined at the start of a block
    std::memset(dynamic_base, 0xFF, dynamic_end - dynamic_base);
}

void shared_end() {
    for (unsigned i = 0; i < piece_count; i++) {
        const char* gap = pieces[i].start + pieces[i].size;
        for (size_t k = 0; k < kGap; k++)
            if (static_cast<unsigned char>(gap[k]) != kGapByte)
                emulated_gpu_fail("block (%u,%u,%u): written %zu bytes past the end of a shared array of %zu bytes",
                                  block_index.x, block_index.y, block_index.z, k, pieces[i].size);
    }
}

void* shared_place(SharedSite& site, size_t size, size_t alignment) {
    if (site.block == current_block()) return site.place;
    if (alignment < 16) alignment = 16;
    used = (used + alignment - 1) / alignment * alignment;
    declared += size;
    if (declared > kStatic) emulated_gpu_fail("%s: more than 48 KiB of static shared memory", where());
    if (declared + dynamic_size > allowed)
        emulated_gpu_fail("%s: %zu bytes of static and %zu of dynamic shared memory, the device has %zu", where(), declared,
                          dynamic_size, allowed);
    if (piece_count == kMostSites) emulated_gpu_fail("%s: too many shared arrays", where());
    site.block = current_block();
    site.place = static_base + used;
    std::memset(site.place, 0xFF, size);
    pieces[piece_count++] = {static_base + used, size};
    used += size;
    std::memset(static_base + used, kGapByte, kGap);
    used += kGap;
    return site.place;
}

uintptr_t shared_area() { return reinterpret_cast<uintptr_t>(area); }
bool in_shared_area(uintptr_t address) { return address - shared_area() < kSharedArea; }

void* dynamic_shared() { return dynamic_base; }

bool in_shared(uintptr_t address, size_t size) {
    auto inside = [&](const char* start, size_t length) {
        uintptr_t s = reinterpret_cast<uintptr_t>(start);
        return address >= s && address + size <= s + length;
    };
    if (inside(dynamic_base, dynamic_size)) return true;
    for (unsigned i = 0; i < piece_count; i++)
        if (inside(pieces[i].start, pieces[i].size)) return true;
    return false;
}

}  // namespace emulate
