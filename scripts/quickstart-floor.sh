#!/usr/bin/env bash
# The first 800 of the quickstart's 1600 updates, on its own schedule, must reach this BLEU on the held-out test set.
set -euo pipefail
cd "$(dirname "$0")/.."
floor=${1:-50}
run=$(mktemp -d)/quickstart
trap 'rm -rf "$(dirname "$run")"' EXIT
result=$(cargo run --release --quiet -- --config configs/quickstart.toml --set run_dir="$run" \
  --set train.max_updates=800 --set schedule.total_updates=1600 --set decode.beam_size=1 --final-json -)
bleu=$(sed -E 's/.*"test_bleu": ?([0-9.]+).*/\1/' <<<"$result")
echo "quickstart, 800 updates: test BLEU $bleu (floor $floor)"
awk -v bleu="$bleu" -v floor="$floor" 'BEGIN { exit !(bleu >= floor) }'
