// One block of threads: what a running kernel sees of it, and how its threads wait for each other.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulate {

// CUDA's built-in variables; set anew whenever another thread goes on.
struct Index {
    unsigned x, y, z;
};
extern Index thread_index, block_index, block_size, grid_size;

constexpr unsigned kWarp = 32;

enum class WarpKind : uint8_t { None, Sync, Shuffle, Ballot, Add, Min, Max, MinSigned, MaxSigned, And, Or, Xor, Match };

// What one lane brings to an operation of its warp, and what it gets.
uint64_t warp_exchange(WarpKind kind, unsigned bytes, unsigned mask, uint64_t value, unsigned source, const char* file,
                       int line);
unsigned lane();

enum class Vote : uint8_t { None, Count, And, Or };
int block_barrier(Vote vote, int predicate, const char* file, int line);

// Shared memory of the current block. Every declaration in the source has one site, which gets its place in the block
// when a thread first passes it.
struct SharedSite {
    uint64_t block = 0;
    void* place = nullptr;
};
void* shared_place(SharedSite& site, size_t size, size_t alignment);
void* dynamic_shared();

template <typename T>
struct Shared {
    SharedSite site;
    T& here() { return *static_cast<T*>(shared_place(site, sizeof(T), alignof(T))); }
};

// Where the current thread is, for messages.
const char* where();
// increases with every barrier of the block and with every block: two accesses of different threads are ordered only
// if it differs
uint64_t current_block();
unsigned current_thread();
unsigned barriers_passed();
bool in_kernel();

}  // namespace emulate
