#!/usr/bin/env bash
# Builds the stand-ins with kernels of their own in FOLDER and tries them: self-test.sh FOLDER
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
"$here/build.sh" "$out" "$here/kernels/self_test.cu"
test=$out/self_test
"${CXX:-g++}" -std=c++17 -O1 -Wall -isystem "${CUDA_HOME:?}/include" "$here/self_test.cpp" -o "$test" \
    "$out/libcuda.so.1" "$out/libcublas.so.13" -Wl,-rpath,"$out"

for order in forward reverse random random:7; do
    for check in 0 1; do
        EMULATED_GPU_ORDER=$order EMULATED_GPU_CHECK=$check "$test" >/dev/null 2>"$out/messages" || { cat "$out/messages"; exit 1; }
        EMULATED_GPU_ORDER=$order EMULATED_GPU_CHECK=$check EMULATED_GPU_GUARD=1 "$test" >/dev/null 2>"$out/messages" || { cat "$out/messages"; exit 1; }
    done
done
echo "all orders, plain and checked: as expected"

failures=0
# What must not pass: settings, name, what the message says.
refused() {
    local settings=$1 name=$2 expected=$3 output
    # a subshell, whose report of the abort is not wanted
    if output=$( (env "$settings" "$test" "$name") 2>&1); then
        echo "NOT REFUSED: $name with $settings"
        failures=1
    elif ! grep -qE "$expected" <<<"$output"; then
        echo "WRONG MESSAGE: $name with $settings: $output"
        failures=1
    else
        echo "refused, $name: $(tail -1 <<<"$output" | cut -c1-150)"
    fi
}
plain=EMULATED_GPU_CHECK=0
checked=EMULATED_GPU_CHECK=1
refused $plain wrong_barrier deadlock
refused $plain wrong_mask "wait for each other with different masks"
refused $plain wrong_shared_end "past the end of a shared array"
refused $plain wrong_copy "of an allocation of"
refused $plain wrong_pinned "before its copy"
refused EMULATED_GPU_GUARD=1 wrong_end "which is not its memory"
# wrong results, no message
refused $plain wrong_no_barrier ""
refused $checked wrong_no_barrier "a race|nobody has written"
refused $checked wrong_end "past the end|not memory of the device"
refused $checked wrong_shared_end "no part of a shared array"
refused $checked wrong_sum "a race"
refused $checked wrong_blocks "a race"
refused $checked wrong_uninitialized "nobody has written"
refused $checked wrong_alignment "not aligned"
exit $failures
