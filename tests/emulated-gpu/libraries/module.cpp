// Modules: the names of a PTX text's kernels, each found among the compiled ones.
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "state.h"

struct CUmod_st {
    std::map<std::string, CUfunc_st> functions;
};

namespace {

bool word(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$'; }

// `.visible .entry NAME(...) .maxntid X, Y, Z { ... }`
void read_ptx(const char* text, std::map<std::string, CUfunc_st>& functions) {
    const char* mark = ".entry";
    for (const char* p = text; (p = strstr(p, mark));) {
        p += strlen(mark);
        while (isspace(static_cast<unsigned char>(*p))) p++;
        const char* start = p;
        while (word(*p)) p++;
        CUfunc_st function;
        function.name.assign(start, p);
        const char* body = strchr(p, '{');
        const char* bound = strstr(p, ".maxntid");
        if (bound && body && bound < body) {
            unsigned long threads = 1;
            const char* q = bound + strlen(".maxntid");
            for (;;) {
                char* end;
                unsigned long n = strtoul(q, &end, 10);
                if (end == q) break;
                threads *= n;
                q = end;
                while (*q == ',' || *q == ' ' || *q == '\t') q++;
            }
            function.most_threads = unsigned(threads);
        }
        functions[function.name] = function;
    }
}

// Sources may have kernels of the same name: the source that has most of the module's kernels is the module's.
void find_entries(CUmod_st& module) {
    const driver::Kernels& all = driver::kernels();
    std::map<std::string, size_t> common;
    for (size_t i = 0; i < all.count; i++)
        if (module.functions.count(all.entries[i].name)) common[all.entries[i].source]++;
    std::string best;
    for (auto& c : common)
        if (best.empty() || c.second > common[best]) best = c.first;
    for (size_t i = 0; i < all.count; i++) {
        if (best != all.entries[i].source) continue;
        auto found = module.functions.find(all.entries[i].name);
        if (found != module.functions.end()) found->second.entry = &all.entries[i];
    }
}

}  // namespace

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    emulated_gpu_count("cuModuleLoadData", 0);
    const char* text = static_cast<const char*>(image);
    if (!memcmp(text, "\x7f" "ELF", 4) || !memcmp(text, "\x50\xed\x55\xba", 4))
        emulated_gpu_fail("a module of machine code was loaded; the emulation needs the names in PTX text");
    auto* loaded = new CUmod_st;
    read_ptx(text, loaded->functions);
    if (loaded->functions.empty()) {
        delete loaded;
        return CUDA_ERROR_INVALID_PTX;
    }
    find_entries(*loaded);
    *module = loaded;
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
    return cuModuleLoadData(module, image);
}
CUresult cuModuleUnload(CUmodule module) {
    delete module;
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    emulated_gpu_count("cuModuleGetFunction", 0);
    auto found = module->functions.find(name);
    if (found == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
    *function = &found->second;
    return CUDA_SUCCESS;
}
