#!/usr/bin/env bash
# Compiles the kernels in src/ops/cuda to machine code of a GPU and prints registers, stack and shared memory of each;
# fails if one keeps anything on a stack (spilled registers, arrays indexed at run time). Needs nvcc, no GPU.
# usage: scripts/cuda-kernels.sh [ARCHITECTURE, such as sm_90]
set -euo pipefail
cd "$(dirname "$0")/.."

architecture=${1:-sm_90}
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
failed=0
for source in src/ops/cuda/*.cu; do
  report=$(nvcc -cubin -arch="$architecture" -std=c++17 -O3 -Xptxas -v "$source" -o "$scratch/kernels.cubin" 2>&1)
  table=$(awk -F"'" '
    /Compiling entry function/ { name = $2 }
    /bytes stack frame/ { split($0, words, " "); stack = words[1] }
    /Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
      shared = 0
      if (match($0, /[0-9]+ bytes smem/)) { split(substr($0, RSTART, RLENGTH), words, " "); shared = words[1] }
      printf "%-28s %3d registers %4d bytes of stack %5d bytes of shared memory\n", name, registers, stack, shared
    }' <<<"$report")
  [[ -n $table ]] || { echo "$source: no kernel, or another form of nvcc's report" >&2; failed=1; }
  echo "$table"
  if grep -qv ' 0 bytes of stack' <<<"$table"; then
    echo "$source: a kernel needs a stack" >&2
    failed=1
  fi
done
exit "$failed"
