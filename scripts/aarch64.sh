#!/usr/bin/env bash
# Runs a command that builds for aarch64 Linux on a machine of another kind, and what was built by qemu: scripts/aarch64.sh COMMAND...
#
#   scripts/aarch64.sh cargo test --release --lib
#   scripts/aarch64.sh scripts/release.sh archive dist aarch64-unknown-linux-gnu
#
# Needs Debian (12 was seen) as root; what is absent is installed: gcc for aarch64, qemu-user, the C library, and Rust's standard
# library, by rustup, or where that can not fetch it with Debian's own compiler. Builds in target/aarch64.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=aarch64-unknown-linux-gnu

packages=()
command -v aarch64-linux-gnu-g++ >/dev/null || packages+=(gcc-aarch64-linux-gnu g++-aarch64-linux-gnu)
command -v qemu-aarch64 >/dev/null || packages+=(qemu-user)
# not the one beside the cross compiler: loader and library must be of one build
[ -e /lib/ld-linux-aarch64.so.1 ] || packages+=(libc6:arm64 libstdc++6:arm64)
has_std() { [ -d "$("$1" --print sysroot)/lib/rustlib/$target/lib" ]; }
if ! has_std rustc; then
  if ! rustup target add $target 2>/dev/null || ! has_std rustc; then
    export RUSTC=/usr/bin/rustc
    [ -x $RUSTC ] && has_std $RUSTC || packages+=(rustc-web libstd-rust-web-dev:arm64)
  fi
fi
if [ ${#packages[@]} -gt 0 ]; then
  dpkg --add-architecture arm64
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${packages[@]}" >&2
fi

export CARGO_TARGET_DIR=$root/target/aarch64 CARGO_BUILD_TARGET=$target
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER=qemu-aarch64
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc CXX_aarch64_unknown_linux_gnu=aarch64-linux-gnu-g++
exec "$@"
