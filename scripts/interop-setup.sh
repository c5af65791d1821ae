#!/usr/bin/env bash
# Installs the programs that tests/interop/ checks against, from PyPI, into a Python venv of their own.
#   scripts/interop-setup.sh [--transformers VERSION] [VENV]
# VENV: target/interop-venv unless given. VERSION: 5.24.0 unless given; 4.57.6 is the other one that is tried. PyTorch is the
# bulk: its wheel for Linux on x86-64 comes with CUDA's libraries, together some 3 GB to fetch and 6 GB on disk. A smaller
# one without CUDA does as well: where pip is configured to find one, or it is in the venv already, that is kept. What is
# there in the right version is not fetched again; tokenizers comes in the version that transformers asks for. Never needed
# to build or use nmt-train.
set -euo pipefail
transformers=5.24.0 venv=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/interop-venv
while [ $# -gt 0 ]; do
  case $1 in
    --transformers)
      [ $# -gt 1 ] || { echo 'interop-setup.sh: --transformers needs a version' >&2; exit 2; }
      transformers=$2
      shift
      ;;
    -*)
      echo "interop-setup.sh: unknown option $1" >&2
      exit 2
      ;;
    *) venv=$1 ;;
  esac
  shift
done
base=${PYTHON:-python3}
if ! "$base" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "interop-setup.sh: $base is not Python 3.11 or later with venv and pip (Debian: apt-get install python3-venv); PYTHON names another" >&2
  exit 1
fi
[ -x "$venv/bin/python" ] || "$base" -m venv "$venv"

packages=("transformers==$transformers" ctranslate2==4.8.5 sentencepiece==0.2.3 sacrebleu==2.6.0 safetensors==0.8.0 numpy==2.4.6)
# A PyTorch that is there stays, whatever its version: it is the bulk.
"$venv/bin/python" -c 'import torch' 2>/dev/null || packages+=(torch==2.15.0)
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"; then
  echo "interop-setup.sh: pip could not install ${packages[*]} into $venv" >&2
  exit 1
fi
"$venv/bin/python" -c '
from importlib.metadata import version
import ctranslate2, sacrebleu, safetensors, sentencepiece, tokenizers, torch, transformers
print(", ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "torch", "ctranslate2", "sentencepiece",
      "sacrebleu", "safetensors", "numpy")))'
