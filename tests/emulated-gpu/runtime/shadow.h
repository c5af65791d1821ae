// What a checked run remembers of every byte of device and shared memory.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulate {

// Who touched a byte last. Two accesses of one launch are ordered if they are of one thread, or of one block with a
// barrier between them (`barrier`: how many the block had passed), or of one warp with a __syncwarp between them.
struct Stamp {
    // counts the blocks of all launches, 0: nobody
    uint32_t block;
    uint32_t thread : 10, barrier : 10, warp : 9, many_threads : 1, many_blocks : 1, atomic : 1;
};
struct Cell {
    Stamp write;
    Stamp read;
};
// written by the host or a library
constexpr uint32_t kHost = 1;

// The cells of the bytes from an address on, if the address is device memory; null otherwise. `left`: how many follow.
Cell* device_cells(uintptr_t address, size_t* left);
// the same for shared memory
Cell* shared_cells(uintptr_t address);

}  // namespace emulate
