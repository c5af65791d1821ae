#!/usr/bin/env bash
# How the training step changes with sentence length (2048 tokens a side throughout) and with vocabulary.
# usage: benches/sweep.sh [arguments of the step benchmark, as --python PYTHON --preset base --rounds 3]
set -euo pipefail
cd "$(dirname "$0")/.."

for len in 16 32 64 128 256; do
  cargo bench --quiet --bench step -- "$@" --len "$len" --batch $((2048 / len))
done
for vocab in 4000 8000 16000 32000 64000; do
  cargo bench --quiet --bench step -- "$@" --vocab "$vocab"
done
