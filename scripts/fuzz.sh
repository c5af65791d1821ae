#!/usr/bin/env bash
# Fuzzes everything that reads files (tests/suite/untrusted.rs), with coverage, on the stable toolchain:
#
#   scripts/fuzz.sh [INPUTS] [READER...]     so many inputs of each reader (default 100000), of all readers
#
# Stops at the first input that panics, takes a second, or more than a gigabyte; it lies then in target/fuzz/found/READER-….
# Put such files into tests/fixtures/untrusted/READER/ once they are errors. What is known grows in target/fuzz/corpus/.
set -euo pipefail
cd "$(dirname "$0")/.."
inputs=${1:-100000}
shift || true

export CARGO_TARGET_DIR=$PWD/target/fuzz
RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing" \
  cargo build --release --manifest-path fuzz/Cargo.toml --target x86_64-unknown-linux-gnu
program=$CARGO_TARGET_DIR/x86_64-unknown-linux-gnu/release/nmt-train-fuzz

readers=("$@")
[ ${#readers[@]} -gt 0 ] || mapfile -t readers < <(sed -n 's/^    ("\([a-z-]*\)", .*),$/\1/p' tests/suite/untrusted.rs)
mkdir -p "$CARGO_TARGET_DIR/found"
for reader in "${readers[@]}"; do
  corpus=$CARGO_TARGET_DIR/corpus/$reader
  mkdir -p "$corpus"
  # what such files look like
  case $reader in
    config) cp -n configs/*.toml "$corpus" ;;
    set) printf 'optimizer.lr=3e-3\ntrain.batch_size=auto\n' >"$corpus/seed" && printf 'data.train=[{files=["a.tsv"], weight=2.0}]' >"$corpus/more" ;;
    sweep) cp -n configs/sweeps/*.txt "$corpus" ;;
    sentencepiece) cp -n tests/fixtures/sentencepiece/*.model "$corpus" ;;
    manifest) find tests/checkpoints tests/fixtures -name manifest.json | head -5 | while read -r f; do cp -n "$f" "$corpus/$(md5sum <"$f" | cut -c1-8)"; done ;;
    state) find tests/checkpoints tests/fixtures -name state.json | head -5 | while read -r f; do cp -n "$f" "$corpus/$(md5sum <"$f" | cut -c1-8)"; done ;;
    safetensors) find tests/checkpoints tests/fixtures -name 'model.safetensors' -size -20k | head -5 | while read -r f; do cp -n "$f" "$corpus/$(md5sum <"$f" | cut -c1-8)"; done ;;
    tsv) printf 'a b\tc d\ne\tf g\n' >"$corpus/seed" ;;
    jsonl) printf '{"en":"a b","de":"c"}\n{"translation":{"en":"x","de":"y"}}\n' >"$corpus/seed" ;;
    gz) printf 'a b\tc d\ne\tf g\n' | gzip -n >"$corpus/seed" ;;
    vectors) printf '2 2\nthe 0.1 1e-3\na 2 -3\n' >"$corpus/seed" ;;
    tokenizer-json) find tests/checkpoints -name tokenizer.json -size -40k | head -2 | while read -r f; do cp -n "$f" "$corpus/$(md5sum <"$f" | cut -c1-8)"; done ;;
  esac
  [ ! -d "tests/fixtures/untrusted/$reader" ] || cp -n "tests/fixtures/untrusted/$reader"/* "$corpus"
  echo "== $reader"
  # whole configs and sweeps are slow to read; short ones have the same grammar
  longest=4096
  case $reader in config | set | scores) longest=400 ;; esac
  READER=$reader "$program" "$corpus" -runs="$inputs" -rss_limit_mb=1024 -malloc_limit_mb=1024 -timeout=10 -max_len="$longest" \
    -artifact_prefix="$CARGO_TARGET_DIR/found/$reader-" -print_final_stats=1 >"$CARGO_TARGET_DIR/$reader.log" 2>&1 || {
    tail -n 40 "$CARGO_TARGET_DIR/$reader.log"
    exit 1
  }
  grep -E 'number_of_executed_units|peak_rss' "$CARGO_TARGET_DIR/$reader.log"
done
