#!/usr/bin/env bash
# Runs a command of a build with feature `cuda` on a machine without a GPU: scripts/emulated-gpu.sh COMMAND...
# NVIDIA's libraries are replaced by tests/emulated-gpu/, which is built first if it is older than its sources.
# CUDA_HOME: a CUDA toolkit. EMULATED_GPU_*: tests/emulated-gpu/README.md.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
out=${CARGO_TARGET_DIR:-$root/target}/emulated-gpu
mkdir -p "$out"
# one build at a time
(
    flock 9
    "$root/tests/emulated-gpu/build.sh" "$out" >&2
) 9>"$out/lock"
LD_LIBRARY_PATH=$out${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$@"
