#!/usr/bin/env bash
# `nmt-train sweep`, whose --help says all. nmt-train is $NMT_TRAIN, else the project's target/release/nmt-train, else the
# one in PATH.
set -eu
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${NMT_TRAIN:-$project/target/release/nmt-train}
[ -n "${NMT_TRAIN:-}" ] || [ -x "$program" ] || program=nmt-train
if ! command -v "$program" >/dev/null; then
  echo "sweep.sh: there is no $program: cargo build --release, or set NMT_TRAIN" >&2
  exit 2
fi
exec "$program" sweep "$@"
