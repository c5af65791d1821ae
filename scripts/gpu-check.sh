#!/usr/bin/env bash
# What a build with CUDA does on a real GPU, in three minutes, eight at most, as one folder of logs and one JSON line:
#
#   scripts/gpu-check.sh pack PROGRAMS           where nvcc and a compiler are: builds, and packs programs and tests (45 MB)
#   scripts/gpu-check.sh run PROGRAMS [OUT]      where the GPU is: nothing is built and nothing fetched
#
# Run: the kernels' tests, the program's (losses beside the CPU, resume bit for bit, checkpoints there and back), the
# quickstart's first 400 updates on GPU and CPU, and a training step of Transformer-base in bf16 beside PyTorch's (eager and
# compiled; PYTHON names an interpreter with torch). OUT: gpu-check unless given; it gets a log a step and gpu-check.json.
# CUDA's libraries are those of the loader and of LD_LIBRARY_PATH, else what /usr/local or /opt has.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mode=$1
mkdir -p "$2"
packed=$(cd "$2" && pwd)
cd "$project"

pack() {
  local list target
  target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
  cargo build --release --features cuda
  cp "$target/release/nmt-train" "$target/release/nmt-train-cuda" "$packed"
  # the folder and name of each test program, as cargo tells them
  list=$(cargo test --release --features cuda --no-run --lib --test suite 2>&1 &&
    cargo bench --features cuda --no-run --bench step 2>&1)
  local name pattern
  for pair in 'lib-tests src/lib.rs' 'suite tests/suite/main.rs' 'step benches/step/main.rs'; do
    read -r name pattern <<<"$pair"
    cp "$(sed -n "s#.*$pattern (\(.*\))#\1#p" <<<"$list")" "$packed/$name"
  done
  cd "$packed"
  strip nmt-train nmt-train-cuda lib-tests suite step
  xz -f -T0 -3 nmt-train nmt-train-cuda lib-tests suite step
  du -ch ./*.xz
}

# Folders of CUDA's libraries that the loader does not know, each with a colon behind it.
libraries() {
  local library found
  for library in libcublas.so libcublasLt.so libcurand.so libnvrtc.so libcuda.so.1; do
    ! ldconfig -p | grep "$library" >/dev/null || continue
    found=$(find /usr/local /opt -name "$library*" -print -quit 2>/dev/null)
    [ -z "$found" ] || printf '%s:' "$(dirname "$found")"
  done
}

unpack() {
  if command -v xz >/dev/null; then
    xz -dc "$1"
  else
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), sys.stdout.buffer)' "$1"
  fi
}

# A step with a limit: its log, its end on the terminal, its verdict in the JSON.
step() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  printf '== %s: exit %s after %s s\n' "$name" "$code" $((SECONDS - start))
  tail -n 12 "$out/$name.log"
  echo "\"$name\": {\"exit\": $code, \"seconds\": $((SECONDS - start))}" >>"$out/steps"
}

# The value of KEY in the last row of EVENT of a run's metrics; null where there is none.
last() {
  local value
  value=$(sed -n "/\"event\":\"$2\"/s/.*\"$3\":\([^,}]*\).*/\1/p" "$out/$1/metrics.jsonl" 2>/dev/null | tail -n 1)
  echo "${value:-null}"
}

run() {
  local programs python=${PYTHON:-python3} device
  programs=$(mktemp -d)
  # the name must outlive this function
  # shellcheck disable=SC2064
  trap "rm -r '$programs'" EXIT
  for file in "$packed"/*.xz; do
    unpack "$file" >"$programs/$(basename "$file" .xz)"
  done
  chmod +x "$programs"/*
  # what is set goes first; a build with an empty libcuda does not ask for the real one
  LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(libraries)
  export LD_LIBRARY_PATH LD_PRELOAD=libcuda.so.1 CARGO_MANIFEST_DIR=$project
  device=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -n 1)
  echo "$device"
  rm -f "$out/steps"
  local program=$programs/nmt-train
  step kernels 120 "$programs/lib-tests" --test-threads 8 &
  step program 120 env "CARGO_BIN_EXE_nmt-train=$program" "$programs/suite" cuda:: --test-threads 6 --skip the_size_of_a_batch &
  wait
  # fills the GPU's memory
  step memory 60 env "CARGO_BIN_EXE_nmt-train=$program" "$programs/suite" the_size_of_a_batch
  local quickstart=(--config configs/quickstart.toml --force --set train.precision=f32 --set train.max_updates=400
    --set validation.valid_freq=400 --set checkpoint.save_freq=400 --set 'data.test=[]')
  step quickstart-gpu 60 "$program" "${quickstart[@]}" --device cuda --set run_dir="$out/gpu"
  step quickstart-cpu 120 "$program" "${quickstart[@]}" --device cpu --set run_dir="$out/cpu"
  step torch 120 "$programs/step" --python "$(command -v "$python")" --compile --preset base --batch 400 --device cuda \
    --precision bf16 --rounds 3 --steps 10 --patience 0
  {
    printf '{"device": "%s", ' "$device"
    printf '%s, ' "$(paste -sd, "$out/steps")"
    for where in gpu cpu; do
      printf '"%s": {"train_loss": %s, "valid_nll": %s, "tokens_per_second": %s}, ' "$where" \
        "$(last $where train loss)" "$(last $where valid nll)" "$(last $where train tokens_per_second)"
    done
    printf '"step": %s}\n' "$(grep '^{' "$out/torch.log" || echo null)"
  } | tee "$out/gpu-check.json"
  ! grep -v '"exit": 0' "$out/steps"
}

case $mode in
  pack) pack ;;
  run)
    compgen -G "$packed/*.xz" >/dev/null || { echo "gpu-check.sh: no packed programs in $packed" >&2; exit 2; }
    mkdir -p "${3:-gpu-check}"
    out=$(cd "${3:-gpu-check}" && pwd)
    run
    ;;
  *) echo "gpu-check.sh: pack or run, not $mode" >&2; exit 2 ;;
esac
