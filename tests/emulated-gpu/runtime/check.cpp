// The checked build: the compiler calls a function at every access to memory (-fsanitize=thread, without its library),
// and this file looks whether the address is the kernel's, was written, and is not touched by two threads without order.
#include "check.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "block.h"
#include "fiber.h"
#include "interface.h"
#include "shadow.h"
#include "shared.h"

#ifdef EMULATED_GPU_CHECKED
// of the linker: where the library begins and ends
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], _end[];

namespace emulate {
namespace {

// the number of the launch's first block, and of the current one; kHost is below every block
uint32_t first_block, block = kHost;
// __syncwarp that each thread has passed
uint16_t warp_syncs[1024];
// of each block of the launch: did it use a fence, did it use an atomic operation
std::vector<uint8_t> communication;
constexpr uint8_t kFence = 1, kAtomic = 2;

std::string source_line(void* code) {
    Dl_info info;
    if (!dladdr(code, &info)) return "?";
    char command[1024], line[512] = "";
    snprintf(command, sizeof command, "addr2line -s -e '%s' %#zx 2>/dev/null", info.dli_fname,
             size_t(static_cast<char*>(code) - static_cast<char*>(info.dli_fbase)) - 1);
    if (FILE* pipe = popen(command, "r")) {
        if (!fgets(line, sizeof line, pipe)) line[0] = 0;
        pclose(pipe);
    }
    line[strcspn(line, "\n")] = 0;
    return line[0] ? line : "?";
}

// constants and variables of the library itself
bool in_library(uintptr_t address) {
    return address >= reinterpret_cast<uintptr_t>(__ehdr_start) && address < reinterpret_cast<uintptr_t>(_end);
}

[[noreturn]] void report(void* code, const void* address, const char* format, const Stamp* other) {
    char text[256] = "";
    if (other)
        snprintf(text, sizeof text, ", thread %u of block %u (numbered in the order they ran)%s%s", unsigned(other->thread),
                 other->block - first_block, other->many_threads || other->many_blocks ? " and others" : "",
                 other->atomic ? ", atomically" : "");
    emulated_gpu_fail("%s, %s: %s %p%s", where(), source_line(code).c_str(), format, address, text);
}

Stamp stamp(bool atomic) {
    const unsigned t = current_thread();
    return {block, t, barriers_passed() & 1023u, warp_syncs[t] & 511u, 0, 0, atomic};
}

// whether something that left stamp `s` may happen at the same time as what the current thread does
bool unordered(const Stamp& s, const Stamp& now) {
    if (s.block < first_block) return false;
    if (s.many_blocks || s.block != now.block) return true;
    if (s.barrier != now.barrier) return false;
    if (!s.many_threads && s.thread == now.thread) return false;
    return s.many_threads || s.thread / 32 != now.thread / 32 || s.warp == now.warp;
}

// `s` after another access of the same kind
void merge(Stamp& s, const Stamp& now) {
    const bool other_block = s.block >= first_block && (s.block != now.block || s.many_blocks);
    const bool other_thread = s.block == now.block && s.barrier == now.barrier &&
                              (s.many_threads || (s.thread != now.thread &&
                                                  (s.thread / 32 != now.thread / 32 || s.warp == now.warp)));
    s = now;
    s.many_blocks = other_block;
    s.many_threads = other_thread;
}

// Blocks may hand on what they wrote: the writer has a fence, the reader looked at a counter.
bool handed_on(const Stamp& s) {
    return !s.many_blocks && s.block != block && s.block >= first_block && communication[s.block - first_block] & kFence &&
           communication[block - first_block] & kAtomic;
}

enum class Access { Read, Write, Atomic };

void access(Access kind, const void* pointer, size_t size, void* code) {
    if (!in_kernel()) return;
    const auto address = reinterpret_cast<uintptr_t>(pointer);
    Cell* cells;
    const bool shared = in_shared_area(address);
    if (shared) {
        if (!in_shared(address, size)) report(code, pointer, "an address that is no part of a shared array:", nullptr);
        cells = shared_cells(address);
    } else {
        // local variables, constants, the built-in variables
        if (in_stacks(address) || in_library(address)) return;
        size_t left;
        cells = device_cells(address, &left);
        if (!cells) report(code, pointer, "an address that is not memory of the device:", nullptr);
        if (size > left) report(code, pointer, "goes past the end of an allocation:", nullptr);
    }
    if (size <= 16 && address % size) report(code, pointer, "an address that is not aligned:", nullptr);
    const Stamp now = stamp(kind == Access::Atomic);
    for (size_t i = 0; i < size; i++) {
        Cell& cell = cells[i];
        // shared memory is new in each block
        if (shared && cell.write.block != block) cell.write.block = 0;
        if (shared && cell.read.block != block) cell.read.block = 0;
        if (kind != Access::Write && cell.write.block == 0) report(code, pointer, "reads what nobody has written:", nullptr);
        const bool both_atomic = kind == Access::Atomic && cell.write.atomic;
        if (!both_atomic && unordered(cell.write, now) && !handed_on(cell.write))
            report(code, pointer,
                   kind == Access::Read ? "a race: reads what another thread writes:" : "a race: two threads write:",
                   &cell.write);
        if (kind != Access::Read && unordered(cell.read, now) && !handed_on(cell.read))
            report(code, pointer, "a race: writes what another thread reads:", &cell.read);
        if (kind == Access::Read) {
            merge(cell.read, now);
        } else {
            if (both_atomic)
                merge(cell.write, now);
            else
                cell.write = now;
        }
    }
}

}  // namespace

void check_launch_begin() {
    first_block = block + 1;
    if (first_block > 0xF0000000u) emulated_gpu_fail("too many blocks for a checked run");
    communication.clear();
}
void check_block_begin() {
    block++;
    communication.push_back(0);
    std::memset(warp_syncs, 0, sizeof warp_syncs);
}
void check_warp_sync(unsigned first_thread, unsigned lanes) {
    uint16_t most = 0;
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1 && warp_syncs[first_thread + l] > most) most = warp_syncs[first_thread + l];
    for (unsigned l = 0; l < 32; l++)
        if (lanes >> l & 1) warp_syncs[first_thread + l] = uint16_t(most + 1);
}
void check_atomic(const void* address, unsigned size) {
    access(Access::Atomic, address, size, __builtin_return_address(0));
    communication.back() |= kAtomic;
}
void check_fence() { communication.back() |= kFence; }

}  // namespace emulate

using emulate::Access;
using emulate::access;

#define HOOKS(size)                                                                                           \
    void __tsan_read##size(void* p) { access(Access::Read, p, size, __builtin_return_address(0)); }           \
    void __tsan_write##size(void* p) { access(Access::Write, p, size, __builtin_return_address(0)); }         \
    void __tsan_unaligned_read##size(void* p) { access(Access::Read, p, size, __builtin_return_address(0)); } \
    void __tsan_unaligned_write##size(void* p) { access(Access::Write, p, size, __builtin_return_address(0)); }
extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t size) { access(Access::Read, p, size, __builtin_return_address(0)); }
void __tsan_write_range(void* p, size_t size) { access(Access::Write, p, size, __builtin_return_address(0)); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
}
#endif
