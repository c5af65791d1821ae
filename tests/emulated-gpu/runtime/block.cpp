#include "block.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "check.h"
#include "fiber.h"
#include "interface.h"
#include "shared.h"

namespace emulate {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr unsigned kMost = 1024;

enum class State : uint8_t { Fresh, Ready, AtBarrier, InWarp, Done };

struct Request {
    WarpKind kind;
    unsigned bytes;
    unsigned mask;
    unsigned source;
    uint64_t value;
    uint64_t result;
    const char* file;
    int line;
};

struct Thread {
    State state;
    unsigned stack;
    Context context;
    Index index;
    Request request;
};

// what a warp's lanes do, as bits
struct Warp {
    unsigned exist, done, waiting;
    // the mask of those that wait, if all have the same
    unsigned mask;
    bool mixed;
};

enum class Order { Forward, Reverse, Random };

Thread threads[kMost];
Warp warps[kMost / kWarp];
uint64_t ready[kMost / 64];
unsigned count, live, waiting, current;
unsigned free_stacks[kMost];
unsigned free_stack_count;
Context host;
const KernelLaunch* launch;
uint64_t block_number;
unsigned passed;
bool running;

// the barrier at which threads wait
const char* barrier_file;
int barrier_line;
Vote barrier_vote;
int barrier_count, barrier_result;

Order order = Order::Forward;
uint64_t random_state = 0x9E3779B97F4A7C15;

uint64_t next_random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

void read_order() {
    const char* text = getenv("EMULATED_GPU_ORDER");
    if (!text || !*text || !strcmp(text, "forward")) return;
    if (!strcmp(text, "reverse")) {
        order = Order::Reverse;
    } else if (!strncmp(text, "random", 6)) {
        order = Order::Random;
        if (text[6] == ':') random_state ^= strtoull(text + 7, nullptr, 10) * 0xBF58476D1CE4E5B9;
    } else {
        emulated_gpu_fail("EMULATED_GPU_ORDER is forward, reverse, random or random:SEED, not %s", text);
    }
}

void set_ready(unsigned thread) { ready[thread / 64] |= uint64_t(1) << (thread % 64); }
void clear_ready(unsigned thread) { ready[thread / 64] &= ~(uint64_t(1) << (thread % 64)); }

// the first ready thread at or after `from`, circularly; kMost if none is
unsigned ready_after(unsigned from) {
    unsigned words = (count + 63) / 64;
    unsigned word = from / 64;
    uint64_t bits = ready[word] & (~uint64_t(0) << (from % 64));
    for (unsigned step = 0; step <= words; step++) {
        if (bits) return word * 64 + __builtin_ctzll(bits);
        word = word + 1 == words ? 0 : word + 1;
        bits = ready[word];
    }
    return kMost;
}

// the last ready thread at or before `from`, circularly
unsigned ready_before(unsigned from) {
    unsigned words = (count + 63) / 64;
    unsigned word = from / 64;
    uint64_t bits = ready[word] & (~uint64_t(0) >> (63 - from % 64));
    for (unsigned step = 0; step <= words; step++) {
        if (bits) return word * 64 + 63 - __builtin_clzll(bits);
        word = word == 0 ? words - 1 : word - 1;
        bits = ready[word];
    }
    return kMost;
}

unsigned next_thread() {
    switch (order) {
        case Order::Forward:
            return ready_after(current + 1 < count ? current + 1 : 0);
        case Order::Reverse:
            return ready_before(current > 0 && current < count ? current - 1 : count - 1);
        default:
            return ready_after(next_random() % count);
    }
}

const char* kind_name(WarpKind kind) {
    switch (kind) {
        case WarpKind::Sync:
            return "__syncwarp";
        case WarpKind::Shuffle:
            return "a shuffle";
        case WarpKind::Ballot:
            return "a vote";
        default:
            return "a reduction or match of the warp";
    }
}

void describe(FILE* out) {
    fprintf(out, "  block (%u,%u,%u) of %s, %u threads:\n", block_index.x, block_index.y, block_index.z,
            launch->kernel->name, count);
    // threads in the same situation in one line
    for (unsigned first = 0; first < count;) {
        const Thread& a = threads[first];
        unsigned end = first + 1;
        while (end < count && threads[end].state == a.state &&
               (a.state != State::InWarp || (threads[end].request.line == a.request.line &&
                                             threads[end].request.mask == a.request.mask)))
            end++;
        fprintf(out, "  threads %u to %u ", first, end - 1);
        switch (a.state) {
            case State::Done:
                fprintf(out, "have ended\n");
                break;
            case State::AtBarrier:
                fprintf(out, "wait at __syncthreads, %s:%d\n", barrier_file, barrier_line);
                break;
            case State::InWarp:
                fprintf(out, "wait in %s with mask %08x, %s:%d\n", kind_name(a.request.kind), a.request.mask,
                        a.request.file, a.request.line);
                break;
            default:
                fprintf(out, "can go on\n");
        }
        first = end;
    }
}

[[noreturn]] void deadlock() {
    describe(stderr);
    emulated_gpu_fail("deadlock in kernel %s: no thread of the block can go on", launch->kernel->name);
}

void thread_main();

// Goes on with another thread, or with the host if none is left. The current one is not ready, or has ended.
void leave(unsigned next) {
    unsigned previous = current;
    if (next == kMost) {
        if (live > 0) deadlock();
        switch_context(threads[previous].context, host);
        return;
    }
    if (next == previous) return;
    Thread& thread = threads[next];
    current = next;
    if (thread.state == State::Fresh) {
        thread.stack = free_stacks[--free_stack_count];
        prepare_context(thread.context, thread.stack, thread_main);
    }
    thread_index = thread.index;
    switch_context(threads[previous].context, thread.context);
}

void release_barrier() {
    passed++;
    barrier_result = barrier_vote == Vote::Count ? barrier_count
                     : barrier_vote == Vote::And ? barrier_count == int(waiting)
                                                 : barrier_count > 0;
    for (unsigned i = 0; i < count; i++) {
        if (threads[i].state == State::AtBarrier) {
            threads[i].state = State::Ready;
            set_ready(i);
        }
    }
    waiting = 0;
    barrier_count = 0;
}

// Ends the operation of a group of lanes if all that live are there.
void try_warp(unsigned first_thread, unsigned mask) {
    Warp& warp = warps[first_thread / kWarp];
    // a lane that has ended, or that the block does not have, takes no part
    const unsigned present = mask & warp.exist & ~warp.done;
    if (present & ~warp.waiting) return;
    const Request* one = nullptr;
    for (unsigned rest = present; rest; rest &= rest - 1) {
        const Request& request = threads[first_thread + __builtin_ctz(rest)].request;
        // it may be with others first
        if (request.mask != mask) return;
        if (!one) one = &request;
        if (request.kind != one->kind || request.bytes != one->bytes) {
            describe(stderr);
            emulated_gpu_fail("kernel %s: lanes of one warp meet in different operations, %s:%d and %s:%d",
                              launch->kernel->name, one->file, one->line, request.file, request.line);
        }
    }
    if (!one) return;
    WarpKind kind = one->kind;
    uint64_t all = 0;
    if (kind != WarpKind::Shuffle && kind != WarpKind::Sync && kind != WarpKind::Match) {
        bool first = true;
        for (unsigned l = 0; l < kWarp; l++) {
            if (!(present >> l & 1)) continue;
            uint64_t value = threads[first_thread + l].request.value;
            if (kind == WarpKind::Ballot) {
                all |= uint64_t(value != 0) << l;
            } else if (first) {
                all = value;
            } else {
                switch (kind) {
                    case WarpKind::Add: all += value; break;
                    case WarpKind::Min: all = value < all ? value : all; break;
                    case WarpKind::Max: all = value > all ? value : all; break;
                    case WarpKind::MinSigned: all = int64_t(value) < int64_t(all) ? value : all; break;
                    case WarpKind::MaxSigned: all = int64_t(value) > int64_t(all) ? value : all; break;
                    case WarpKind::And: all &= value; break;
                    case WarpKind::Or: all |= value; break;
                    default: all ^= value; break;
                }
            }
            first = false;
        }
    }
    for (unsigned l = 0; l < kWarp; l++) {
        if (!(present >> l & 1)) continue;
        Thread& thread = threads[first_thread + l];
        Request& request = thread.request;
        request.result = all;
        if (kind == WarpKind::Shuffle) {
            // the value of a lane that takes no part is undefined
            request.result = present >> request.source & 1 ? threads[first_thread + request.source].request.value
                                                           : ~uint64_t(0);
        } else if (kind == WarpKind::Match) {
            uint64_t same = 0;
            for (unsigned o = 0; o < kWarp; o++)
                if ((present >> o & 1) && threads[first_thread + o].request.value == request.value) same |= 1u << o;
            request.result = same;
        }
    }
    // the other operations do not order memory
    if (kind == WarpKind::Sync) check_warp_sync(first_thread, present);
    for (unsigned l = 0; l < kWarp; l++) {
        if (!(present >> l & 1)) continue;
        threads[first_thread + l].state = State::Ready;
        set_ready(first_thread + l);
    }
    warp.waiting &= ~present;
    if (!warp.waiting) warp.mixed = false;
}

// A thread has ended: what others wait for may be complete now.
void ended() {
    threads[current].state = State::Done;
    clear_ready(current);
    live--;
    if (waiting > 0 && waiting == live) release_barrier();
    const unsigned first = current / kWarp * kWarp;
    Warp& warp = warps[first / kWarp];
    warp.done |= 1u << (current % kWarp);
    for (unsigned rest = warp.waiting; rest; rest &= rest - 1) {
        const Thread& thread = threads[first + __builtin_ctz(rest)];
        if (thread.state == State::InWarp && thread.request.mask >> (current % kWarp) & 1)
            try_warp(first, thread.request.mask);
    }
}

// What a stack runs: threads one after the other, as long as the next one has not begun elsewhere. A kernel in which
// nothing waits needs one stack and no switch.
void thread_main() {
    for (;;) {
        threads[current].state = State::Ready;
        launch->kernel->call(launch->arguments);
        ended();
        unsigned stack = threads[current].stack;
        unsigned next = next_thread();
        if (next != kMost && threads[next].state == State::Fresh) {
            current = next;
            threads[next].stack = stack;
            thread_index = threads[next].index;
            continue;
        }
        free_stacks[free_stack_count++] = stack;
        leave(next);
    }
}

void run_block() {
    block_number++;
    passed = 0;
    live = count;
    waiting = 0;
    barrier_count = 0;
    for (unsigned i = 0; i < count; i++) {
        threads[i].state = State::Fresh;
        set_ready(i);
    }
    for (unsigned w = 0; w * kWarp < count; w++) {
        const unsigned lanes = count - w * kWarp;
        warps[w] = {lanes >= kWarp ? ~0u : (1u << lanes) - 1, 0, 0, 0, false};
    }
    shared_begin(launch->dynamic_shared, launch->shared_limit);
    check_block_begin();
    free_stack_count = kMost;
    current = order == Order::Forward ? count - 1 : 0;
    unsigned first = next_thread();
    current = first;
    threads[first].stack = free_stacks[--free_stack_count];
    prepare_context(threads[first].context, threads[first].stack, thread_main);
    thread_index = threads[first].index;
    running = true;
    switch_context(host, threads[first].context);
    running = false;
    shared_end();
}

}  // namespace

uint64_t warp_exchange(WarpKind kind, unsigned bytes, unsigned mask, uint64_t value, unsigned source, const char* file,
                       int line) {
    unsigned me = current % kWarp;
    unsigned first = current - me;
    if (!(mask >> me & 1))
        emulated_gpu_fail("%s: lane %u takes part in %s with mask %08x, which does not name it, %s:%d", where(), me,
                          kind_name(kind), mask, file, line);
    Thread& thread = threads[current];
    thread.request = {kind, bytes, mask, source, value, 0, file, line};
    thread.state = State::InWarp;
    clear_ready(current);
    Warp& warp = warps[first / kWarp];
    if (!warp.waiting)
        warp.mask = mask;
    else if (warp.mask != mask)
        warp.mixed = true;
    // two lanes that wait for each other must wait in the same operation
    for (unsigned rest = warp.mixed ? warp.waiting & mask : 0; rest; rest &= rest - 1) {
        const Thread& other = threads[first + __builtin_ctz(rest)];
        if (other.request.mask != mask && (other.request.mask >> me & 1)) {
            describe(stderr);
            emulated_gpu_fail("%s: lanes wait for each other with different masks, %08x and %08x, %s:%d", where(), mask,
                              other.request.mask, file, line);
        }
    }
    warp.waiting |= 1u << me;
    try_warp(first, mask);
    if (thread.state == State::InWarp) leave(next_thread());
    return thread.request.result;
}

unsigned lane() { return current % kWarp; }

int block_barrier(Vote vote, int predicate, const char* file, int line) {
    if (waiting == 0) {
        barrier_file = file;
        barrier_line = line;
        barrier_vote = vote;
    } else if (barrier_line != line || (barrier_file != file && strcmp(barrier_file, file)) || barrier_vote != vote) {
        describe(stderr);
        emulated_gpu_fail("%s: reaches __syncthreads at %s:%d, others of its block wait at %s:%d", where(), file, line,
                          barrier_file, barrier_line);
    }
    barrier_count += predicate != 0;
    threads[current].state = State::AtBarrier;
    clear_ready(current);
    waiting++;
    if (waiting == live) release_barrier();
    // also the last one gives way, so that no order of the threads is certain
    leave(next_thread());
    threads[current].state = State::Ready;
    return barrier_result;
}

const char* where() {
    static char text[256];
    if (!running) {
        snprintf(text, sizeof text, "outside of kernels");
    } else {
        snprintf(text, sizeof text, "kernel %s (%s), block (%u,%u,%u), thread (%u,%u,%u)", launch->kernel->name,
                 launch->kernel->source, block_index.x, block_index.y, block_index.z, thread_index.x, thread_index.y,
                 thread_index.z);
    }
    return text;
}

uint64_t current_block() { return block_number; }
unsigned current_thread() { return current; }
unsigned barriers_passed() { return passed; }
bool in_kernel() { return running; }

}  // namespace emulate

using namespace emulate;

// One launch at a time: the blocks one after the other, each thread of a block on a stack of its own when it waits.
extern "C" void emulated_gpu_run(const KernelLaunch* what) {
    static std::mutex one_launch;
    std::lock_guard<std::mutex> guard(one_launch);
    static bool prepared = false;
    if (!prepared) {
        prepared = true;
        read_order();
        for (unsigned i = 0; i < kMost; i++) free_stacks[i] = kMost - 1 - i;
    }
    launch = what;
    grid_size = {what->grid[0], what->grid[1], what->grid[2]};
    block_size = {what->block[0], what->block[1], what->block[2]};
    count = block_size.x * block_size.y * block_size.z;
    unsigned i = 0;
    for (unsigned z = 0; z < block_size.z; z++)
        for (unsigned y = 0; y < block_size.y; y++)
            for (unsigned x = 0; x < block_size.x; x++) threads[i++].index = {x, y, z};
    std::memset(ready, 0, sizeof ready);
    check_launch_begin();
    uint64_t blocks = uint64_t(grid_size.x) * grid_size.y * grid_size.z;
    // a random order of blocks: steps of a size that has no divisor in common with their number
    uint64_t step = 1, place = 0;
    if (order == Order::Random) {
        auto divisor = [](uint64_t a, uint64_t b) {
            while (b) {
                uint64_t r = a % b;
                a = b;
                b = r;
            }
            return a;
        };
        step = next_random() % blocks + 1;
        while (divisor(step, blocks) != 1) step++;
        place = next_random() % blocks;
    }
    for (uint64_t n = 0; n < blocks; n++) {
        uint64_t b = order == Order::Forward ? n : order == Order::Reverse ? blocks - 1 - n : place;
        place = (place + step) % blocks;
        block_index = {unsigned(b % grid_size.x), unsigned(b / grid_size.x % grid_size.y),
                       unsigned(b / grid_size.x / grid_size.y)};
        run_block();
    }
}
