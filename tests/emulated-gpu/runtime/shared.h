// The shared memory of the block that runs.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulate {

void shared_begin(size_t dynamic, size_t limit);
// checks what lies between the arrays
void shared_end();
// whether the address lies in the block's shared memory as declared
bool in_shared(uintptr_t address, size_t size);

// the addresses among which all shared memory lies
constexpr size_t kSharedArea = (96 << 10) + (256 << 10) + 3 * 4096;
uintptr_t shared_area();
bool in_shared_area(uintptr_t address);

}  // namespace emulate
