#!/usr/bin/env bash
# A short quickstart run from nothing must reach this BLEU on the held-out test set.
set -euo pipefail
cd "$(dirname "$0")/.."
floor=${1:-30}
run=$(mktemp -d)/quickstart
trap 'rm -rf "$(dirname "$run")"' EXIT
result=$(cargo run --release --quiet -- --config configs/quickstart.toml --set run_dir="$run" \
  --set train.max_updates=800 --set schedule.warmup_updates=200 --set validation.valid_freq=0 --set decode.beam_size=1 --final-json -)
bleu=$(sed -E 's/.*"test_bleu": ?([0-9.]+).*/\1/' <<<"$result")
echo "quickstart, 800 updates: test BLEU $bleu (floor $floor)"
awk -v bleu="$bleu" -v floor="$floor" 'BEGIN { exit !(bleu >= floor) }'
