#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "interface.h"

namespace emulate {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr size_t kGuard = 4096;
constexpr unsigned kStacks = 1024;

char* base;

// Stacks lie in one mapping with a page between them that must not be touched.
char* stack_end(unsigned index) {
    if (!base) {
        void* memory = mmap(nullptr, (kStack + kGuard) * kStacks + kGuard, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) emulated_gpu_fail("no memory for the stacks of threads");
        base = static_cast<char*>(memory);
        for (unsigned i = 0; i <= kStacks; i++) mprotect(base + i * (kStack + kGuard), kGuard, PROT_NONE);
    }
    // Staggered, so that the same depth of different stacks does not fall into the same set of the cache.
    return base + (index + 1) * (kStack + kGuard) - (index % 61) * 64;
}

}  // namespace

#if defined(__x86_64__) && !defined(EMULATED_GPU_UCONTEXT)

// Saves the registers a call preserves on the old stack, takes them from the new one.
asm(R"(
    .text
    .local emulated_gpu_switch
    .type emulated_gpu_switch, @function
emulated_gpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulated_gpu_switch, . - emulated_gpu_switch
)");
extern "C" void emulated_gpu_switch(void** from, void** to);

void switch_context(Context& from, Context& to) { emulated_gpu_switch(&from.stack_pointer, &to.stack_pointer); }

void prepare_context(Context& context, unsigned index, void (*entry)()) {
    uintptr_t end = reinterpret_cast<uintptr_t>(stack_end(index)) & ~uintptr_t(63);
    // six registers and the return address; at `entry` the stack pointer is 8 below a multiple of 16
    auto* top = reinterpret_cast<uintptr_t*>(end - 64);
    std::memset(top, 0, 64);
    top[6] = reinterpret_cast<uintptr_t>(entry);
    context.stack_pointer = top;
}

#else

void switch_context(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

void prepare_context(Context& context, unsigned index, void (*entry)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack_end(index) - kStack + 64 * 64;
    context.context.uc_stack.ss_size = kStack - 64 * 64;
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
}

#endif

bool in_stacks(uintptr_t address) {
    return address - reinterpret_cast<uintptr_t>(base) < (kStack + kGuard) * kStacks + kGuard;
}

}  // namespace emulate
