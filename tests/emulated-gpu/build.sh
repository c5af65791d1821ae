#!/usr/bin/env bash
# Builds stand-ins for NVIDIA's run-time libraries: build.sh OUT [SOURCE.cu...]
# The sources are the project's kernels unless named; candle's own come from the registry that cargo uses.
# CUDA_HOME: a CUDA toolkit (its headers). CXX: a g++. CANDLE_KERNELS: where candle-kernels' sources are, if not found.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cxx=${CXX:-g++}
[ -f "${CUDA_HOME:?set CUDA_HOME to a CUDA toolkit}/include/cuda_bf16.h" ] || {
    echo "build.sh: no headers of CUDA in $CUDA_HOME/include" >&2
    exit 1
}

own=("$@")
if [ ${#own[@]} -eq 0 ]; then
    for f in "$root"/src/ops/cuda/*.cu; do [ -f "$f" ] && own+=("$f"); done
fi
# those of candle's kernels that are compiled for the device as PTX
candle_names=(affine binary cast fill indexing reduce sort ternary unary)
candle=${CANDLE_KERNELS:-}
if [ -z "$candle" ]; then
    version=$(sed -n '/^name = "candle-kernels"$/{n;s/^version = "\(.*\)"$/\1/p;q}' "$root/Cargo.lock")
    for d in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/candle-kernels-"$version"/src; do [ -d "$d" ] && candle=$d; done
fi
[ -n "$candle" ] || {
    echo "build.sh: the sources of candle-kernels are not there: cargo fetch" >&2
    exit 1
}

flags=(-std=c++17 -O2 -march=native -fPIC -fvisibility-inlines-hidden -fno-strict-aliasing -Wall -I"$here/runtime")
toolkit=(-isystem "$CUDA_HOME/include" -isystem "$CUDA_HOME/include/cccl")
mkdir -p "$out/objects" "$out/sources"

# A step is done again if its product is older than what it is made from.
stale() {
    local product=$1
    shift
    [ -e "$product" ] || return 0
    local f
    for f in "$@"; do [ "$product" -nt "$f" ] || return 0; done
    return 1
}
# Keeps the time of a file that has not changed.
install_changed() { if cmp -s "$1" "$2"; then rm "$1"; else mv "$1" "$2"; fi; }

# ---- kernels: sources with shared memory translated, a wrapper that registers each kernel
translate() { # folder tag
    mkdir -p "$out/sources/$2"
    local f
    for f in "$1"/*.cu "$1"/*.cuh; do
        [ -f "$f" ] || continue
        sed -E -f "$here/translate.sed" "$f" >"$out/sources/$2/.new"
        install_changed "$out/sources/$2/.new" "$out/sources/$2/$(basename "$f")"
    done
}

objects_plain=()
objects_checked=()
compile_kernels() { # tag file header
    local tag=$1 file=$2 header=$3 stem dir
    stem=$(basename "$file" .cu)
    dir=$out/sources/$tag
    local from=("$dir/$stem.cu" "$here"/runtime/*.h) f
    for f in "$dir"/*.cuh; do [ -f "$f" ] && from+=("$f"); done
    local wrapper=$out/sources/$tag-$stem.wrapper.cpp
    if stale "$wrapper" "${from[@]}" "$here/build.sh"; then
        # extern "C" __global__ void NAME(, after the preprocessor has written out the macros
        local names
        names=$("$cxx" "${flags[@]}" "${toolkit[@]}" -w -E -P -x c++ -include "$here/runtime/$header" \
            "$dir/$stem.cu" | tr '\n' ' ' |
            grep -oE 'extern "C" +__attribute__ *\(\(noinline, visibility\("hidden"\)\)\) *void +[A-Za-z0-9_]+ *\(' |
            sed -E 's/.* ([A-Za-z0-9_]+) *\($/\1/' | sort -u)
        {
            echo "#include \"$header\""
            # names of different sources may be the same
            local n
            for n in $names; do echo "#define $n ${tag}_${stem}_$n"; done
            echo "#include \"$dir/$stem.cu\""
            for n in $names; do echo "EMULATED_GPU_REGISTER(\"$tag/$stem.cu\", \"${n}\", $n)"; done
        } >"$wrapper.new"
        mv "$wrapper.new" "$wrapper"
    fi
    local kind object extra
    for kind in plain checked; do
        object=$out/objects/$kind-$tag-$stem.o
        extra=()
        [ $kind = checked ] && extra=(-DEMULATED_GPU_CHECKED -fsanitize=thread --param tsan-instrument-func-entry-exit=0 -O1 -g1)
        if stale "$object" "$wrapper" "${from[@]}"; then
            echo "g++ $tag/$stem.cu ($kind)"
            "$cxx" "${flags[@]}" -Wno-unused-variable -Wno-sign-compare -Wno-unknown-pragmas -Wno-unused-but-set-variable \
                -Wno-unused-function "${toolkit[@]}" -fvisibility=hidden "${extra[@]}" -c "$wrapper" -o "$object.all"
            # sources may have different functions of the same name, which must not become one
            ld -r --force-group-allocation "$object.all" -o "$object.one"
            objcopy --localize-hidden "$object.one" "$object"
            rm "$object.all" "$object.one"
        fi
        if [ $kind = plain ]; then objects_plain+=("$object"); else objects_checked+=("$object"); fi
    done
}

translate "$candle" candle
for n in "${candle_names[@]}"; do compile_kernels candle "$n.cu" candle.h; done
if [ ${#own[@]} -gt 0 ]; then
    translate "$(dirname "${own[0]}")" own
    for f in "${own[@]}"; do compile_kernels own "$f" emulate.h; done
fi

compile() { # object source flags...
    local object=$1 source=$2
    shift 2
    if stale "$object" "$source" "$here"/runtime/*.h "$here"/libraries/*.h; then
        echo "g++ $(basename "$source")"
        "$cxx" "${flags[@]}" "${toolkit[@]}" "$@" -c "$source" -o "$object"
    fi
}
for kind in plain checked; do
    extra=()
    [ $kind = checked ] && extra=(-DEMULATED_GPU_CHECKED)
    runtime=()
    for s in block check fiber registry shadow shared; do
        compile "$out/objects/$kind-$s.o" "$here/runtime/$s.cpp" -fvisibility=hidden "${extra[@]}"
        runtime+=("$out/objects/$kind-$s.o")
    done
    if [ $kind = plain ]; then runtime+=("${objects_plain[@]}"); else runtime+=("${objects_checked[@]}"); fi
    library=$out/libemulated-kernels-$kind.so
    if stale "$library" "${runtime[@]}"; then "$cxx" -shared -o "$library" "${runtime[@]}"; fi
done

# ---- libraries: what is implemented, and for every other function of the header a stub that names itself
library() { # soname, header names..., -- sources...
    local soname=$1 headers=() objects=() name
    shift
    while [ "$1" != -- ]; do
        headers+=("$CUDA_HOME/include/$1")
        shift
    done
    shift
    for name in "$@"; do
        compile "$out/objects/$name.o" "$here/libraries/$name.cpp" -O3
        objects+=("$out/objects/$name.o")
    done
    stale "$out/$soname" ${objects[@]+"${objects[@]}"} "$here/build.sh" || return 0
    # also in the form for a stream a thread, and what nvcc makes of <<< >>>
    { echo __cudaLaunchKernel; echo __cudaPushCallConfiguration; grep -ohE '\b(__)?(cu|cublas|cublasLt|cuda|curand|nvrtc)[A-Z][A-Za-z0-9_]*' "${headers[@]}"; } |
        sed -E 's/.*/&\n&_ptsz\n&_ptds/' | sort -u >"$out/objects/names"
    { [ ${#objects[@]} -eq 0 ] || nm --defined-only "${objects[@]}"; } | awk '$2 == "T" { print $3 }' | sort -u >"$out/objects/defined"
    {
        echo 'extern void emulated_gpu_missing(const char *) __attribute__((noreturn));'
        comm -23 "$out/objects/names" "$out/objects/defined" |
            sed 's/.*/void &(void); void &(void) { emulated_gpu_missing("&"); }/'
    } >"$out/objects/stubs.c"
    # the program asks for symbols of a version that is named like the library
    local script=()
    local needed=()
    if [ "$soname" != libcuda.so.1 ]; then
        echo "$soname { global: *; };" >"$out/objects/$soname.map"
        script=("-Wl,--version-script=$out/objects/$soname.map")
        needed=("$out/libcuda.so.1" "-Wl,-rpath,\$ORIGIN")
    fi
    echo "$soname"
    "$cxx" -fPIC -w -x c -c "$out/objects/stubs.c" -o "$out/objects/stubs-$soname.o"
    "$cxx" -shared -o "$out/$soname" -Wl,-soname,"$soname" "${script[@]}" "${objects[@]}" "$out/objects/stubs-$soname.o" \
        "${needed[@]}" -ldl -lpthread
}
library libcuda.so.1 cuda.h -- fail stats memory copies context module launch
library libcublas.so.13 cublas_api.h cublas_v2.h -- gemm cublas
library libcublasLt.so.13 cublasLt.h --
library libcurand.so.10 curand.h -- curand
library libnvrtc.so.13 nvrtc.h --
library libcudart.so.13 cuda_runtime_api.h crt/host_runtime.h -- cudart
# looked for at run time, so without stubs
compile "$out/objects/nccl.o" "$here/libraries/nccl.cpp" -O3
if stale "$out/libnccl.so.2" "$out/objects/nccl.o"; then
    echo libnccl.so.2
    "$cxx" -shared -o "$out/libnccl.so.2" "$out/objects/nccl.o" "$out/libcuda.so.1" -Wl,-rpath,\$ORIGIN
fi
