// EMULATED_GPU_STATS=1: what the program asked the device for, printed when it ends. EMULATED_GPU_STATS=FILE appends
// it to a file.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "state.h"

namespace {

struct Count {
    uint64_t times = 0;
    uint64_t bytes = 0;
};
struct Stats {
    std::mutex mutex;
    std::map<std::string, Count> calls;
    std::map<std::string, Count> launches;
    bool wanted = false;

    Stats() {
        const char* text = getenv("EMULATED_GPU_STATS");
        wanted = text && *text && strcmp(text, "0");
        if (wanted) atexit(print);
    }
    static void print();
};

Stats& stats() {
    // lives to the end of the process
    static Stats* all = new Stats;
    return *all;
}

void Stats::print() {
    const char* text = getenv("EMULATED_GPU_STATS");
    FILE* out = strcmp(text, "1") ? fopen(text, "a") : stderr;
    if (!out) return;
    std::lock_guard<std::mutex> guard(stats().mutex);
    uint64_t all = 0;
    std::vector<std::pair<std::string, Count>> launches(stats().launches.begin(), stats().launches.end());
    for (auto& l : launches) all += l.second.times;
    std::stable_sort(launches.begin(), launches.end(),
                     [](auto& a, auto& b) { return a.second.times > b.second.times; });
    fprintf(out, "emulated GPU: %llu launches\n", (unsigned long long)all);
    for (auto& l : launches) fprintf(out, "%10llu %s\n", (unsigned long long)l.second.times, l.first.c_str());
    fprintf(out, "emulated GPU: calls, bytes\n");
    for (auto& c : stats().calls)
        fprintf(out, "%10llu %-24s %llu\n", (unsigned long long)c.second.times, c.first.c_str(),
                (unsigned long long)c.second.bytes);
    if (out != stderr) fclose(out);
}

}  // namespace

void emulated_gpu_count(const char* what, size_t bytes) {
    if (!stats().wanted) return;
    std::lock_guard<std::mutex> guard(stats().mutex);
    Count& count = stats().calls[what];
    count.times++;
    count.bytes += bytes;
}

void driver::count_launch(const char* kernel) {
    if (!stats().wanted) return;
    std::lock_guard<std::mutex> guard(stats().mutex);
    stats().launches[kernel].times++;
}
