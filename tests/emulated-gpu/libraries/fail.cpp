// How the emulation ends the program: with a message of what is wrong or missing.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "interface.h"

void emulated_gpu_fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fflush(stdout);
    fputs("emulated GPU: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

extern "C" [[noreturn]] void emulated_gpu_missing(const char* name) {
    emulated_gpu_fail("%s is not emulated", name);
}
