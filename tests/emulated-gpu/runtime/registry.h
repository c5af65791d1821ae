// The list of compiled kernels, filled by the wrapper of each source.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>

#include "interface.h"

namespace emulate {

void register_kernel(const char* source, const char* name, void (*call)(void**));

// CUDA passes the address of each argument; its type is known from the kernel.
template <auto kernel>
struct Caller;
template <typename... Arguments, void (*kernel)(Arguments...)>
struct Caller<kernel> {
    template <size_t... I>
    __attribute__((no_sanitize("thread"))) static void spread(void** arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_cv_t<Arguments>*>(arguments[I])...);
    }
    __attribute__((no_sanitize("thread"))) static void call(void** arguments) { spread(arguments, std::index_sequence_for<Arguments...>()); }
};

struct Registrar {
    Registrar(const char* source, const char* name, void (*call)(void**)) { register_kernel(source, name, call); }
};

}  // namespace emulate

#define EMULATED_GPU_REGISTER(source, text, kernel) \
    static emulate::Registrar register_##kernel(source, text, &emulate::Caller<&kernel>::call);
