// A stack of its own for a CUDA thread that has to wait, and the switch from one stack to another.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulate {

#if defined(__x86_64__) && !defined(EMULATED_GPU_UCONTEXT)
// the saved stack pointer; the registers lie on the stack
struct Context {
    void* stack_pointer = nullptr;
};
#else
}
#include <ucontext.h>
namespace emulate {
struct Context {
    ucontext_t context;
};
#endif

void switch_context(Context& from, Context& to);

// Prepares `context` so that the next switch to it calls `entry` on stack number `index`. `entry` never returns.
void prepare_context(Context& context, unsigned index, void (*entry)());

bool in_stacks(uintptr_t address);

}  // namespace emulate
