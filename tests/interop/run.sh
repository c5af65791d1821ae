#!/usr/bin/env bash
# Trains small models and checks them with the programs they are exported to and imported from: tests/interop/README.md.
#   tests/interop/run.sh [--quick] [--keep DIR] [VENV]
# VENV is made by scripts/interop-setup.sh (default: target/interop-venv); without it nothing is checked. nmt-train is $NMT,
# else target/release/nmt-train. --quick: fewer models and lines. --keep: models and exports stay in DIR, and models that are
# there are not trained again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
project=$(cd "$here/../.." && pwd)
quick='' work='' venv=$project/target/interop-venv
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --keep)
      [ $# -gt 1 ] || { echo 'run.sh: --keep needs a folder' >&2; exit 2; }
      work=$2
      shift
      ;;
    -*)
      echo "run.sh: unknown option $1" >&2
      exit 2
      ;;
    *) venv=$1 ;;
  esac
  shift
done
python=$venv/bin/python
if [ ! -x "$python" ]; then
  echo "interop: there is no $venv (scripts/interop-setup.sh makes it): nothing was checked"
  exit 0
fi
export NMT=${NMT:-$project/target/release/nmt-train}
if ! command -v "$NMT" >/dev/null; then
  echo "run.sh: there is no $NMT: cargo build --release, or set NMT" >&2
  exit 2
fi
if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work/out"
rm -f "$work/out"/*
work=$(cd "$work" && pwd)
cd "$project"
export HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1
at_once=$(nproc)
: >"$work/lines"
jobs=()

# start NAME COMMAND...: runs it beside others; `settle` waits for all and prints what they printed, in order.
start() {
  local name=$1
  shift
  while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do wait -n || true; done
  jobs+=("$name")
  { "$@" >"$work/out/$name" 2>"$work/out/$name.stderr" || echo $? >"$work/out/$name.failed"; } &
}

settle() {
  local name
  wait
  for name in "${jobs[@]}"; do
    cat "$work/out/$name"
    if [ -e "$work/out/$name.failed" ] && ! grep -q '^FAIL' "$work/out/$name"; then
      echo "FAIL $name: ended with $(cat "$work/out/$name.failed"): $(tail -n 1 "$work/out/$name.stderr")"
    fi
    rm -f "$work/out/$name.failed"
  done | tee -a "$work/lines"
  jobs=()
}

check() { "$python" "$here/$1.py" "${@:2}"; }

# train NAME SETTING...: a small model of the quickstart's text, with these settings beside those of all.
train() {
  local name=$1 settings=() setting
  shift
  [ ! -e "$work/$name/checkpoints/latest" ] || return 0
  for setting in model.layers=2 model.d_ff=256 train.max_updates=400 schedule.warmup_updates=100 optimizer.lr=4e-3 \
    validation.valid_freq=0 'validation.metrics=["nll"]' checkpoint.save_freq=0 'data.test=[]' threads=1 "$@"; do
    settings+=(--set "$setting")
  done
  "$NMT" --config configs/quickstart.toml "${settings[@]}" --set run_dir="$work/$name" --force -q
}

small=(model.d_model=64 tokenizer.vocab_size=1000)

# refuses NAME WORD COMMAND...: it must end with 3 and a line that has WORD.
refuses() {
  local name=$1 word=$2 said code=0
  shift 2
  said=$("$@" 2>&1) || code=$?
  if [ "$code" = 3 ] && grep -qF -- "$word" <<<"$said"; then
    echo "ok   $name: $(head -n 1 <<<"$said")"
  else
    echo "FAIL $name: ended with $code, must be 3 and say $word: $(head -n 1 <<<"$said")"
  fi
}

# export_run RUN FORMAT DTYPE: into RUN.FORMAT.DTYPE.
export_run() {
  local out=$work/$1.$2.$3
  rm -rf "$out"
  "$NMT" export "$work/$1" --format "$2" --dtype "$3" --out "$out" -q
}

huggingface() {
  export_run "$1" huggingface "${2:-float32}" &&
    check check_huggingface "$work/$1" "$work/$1.huggingface.${2:-float32}" --dtype "${2:-float32}" "${@:3}"
}

# Compares with CTranslate2's own converter where there is an export to Hugging Face.
ctranslate2() {
  local peer=()
  [ ! -d "$work/$1.huggingface.float32" ] || peer=(--huggingface "$work/$1.huggingface.float32")
  export_run "$1" ctranslate2 "${2:-float32}" &&
    check check_ctranslate2 "$work/$1" "$work/$1.ctranslate2.${2:-float32}" --dtype "${2:-float32}" "${peer[@]}" "${@:3}"
}

# import_folder DIR: imports it twice where it has weights of both kinds, and checks each.
import_folder() {
  local kind run other
  for kind in model.safetensors pytorch_model.bin; do
    [ -e "$work/$1/$kind" ] || continue
    run=$work/$1-${kind##*.} other=$work/$1-only-${kind##*.}
    rm -rf "$run" "$other"
    mkdir "$other"
    cp "$work/$1"/*.json "$work/$1"/*.spm "$work/$1/$kind" "$other"
    "$NMT" import "$other" --out "$run" -q && check check_import "$other" "$run"
  done
}

# passed_on DIR RUN: the run imported from DIR, exported again in both formats.
passed_on() {
  export_run "$2" huggingface float32 && export_run "$2" ctranslate2 float32 &&
    check check_passed_on "$work/$1" "$work/$2.huggingface.float32" "$work/$2.ctranslate2.float32"
}

opus() { [ -e "$work/$1/expected.json" ] || check make_opus "$work/$1" "${@:2}" >/dev/null; }

updates=600 lines=200 ids=10000 few=(--lines 100)
[ -z "$quick" ] || updates=300 lines=60 ids=2000 few=(--lines 40)
of_main=(--lines "$lines" --beam-lines "$lines" --ids "$ids")
of_others=("${few[@]}" --beam-lines "${few[1]}" --ids 1000)

# Models. The first is trained well enough that a lost half of a BLEU point shows.
start train-main train main model.d_model=128 train.max_updates="$updates"
start train-pre train pre "${small[@]}" model.norm=pre
start train-separate train separate "${small[@]}" tokenizer.joint=false tokenizer.vocab_size=600 model.tied_embeddings=decoder
start train-bias train bias "${small[@]}" model.output_bias=true tokenizer.kind=unigram
start opus-joint opus opus-joint --codes de,nl --holes
if [ -z "$quick" ]; then
  start train-untied train untied "${small[@]}" model.tied_embeddings=none model.activation=swish model.encoder_layers=3 \
    model.decoder_layers=1
  start train-decoder train decoder "${small[@]}" model.tied_embeddings=decoder model.activation=gelu
  start train-rnn train rnn "${small[@]}" model.kind=rnn train.max_updates=5 schedule.warmup_updates=2 \
    model.rnn.hidden_size=64 model.rnn.embedding_size=64
  start opus-separate opus opus-separate --separate --activation relu --weights safetensors --updates 200
fi
settle

# Out
start huggingface-main huggingface main float32 "${of_main[@]}"
start huggingface-bias huggingface bias float32 "${of_others[@]}"
[ -n "$quick" ] || for run in untied decoder; do start "huggingface-$run" huggingface "$run" float32 "${of_others[@]}"; done
[ -n "$quick" ] || for dtype in float16 bfloat16; do start "huggingface-$dtype" huggingface main "$dtype" --lines "$lines"; done
for run in pre separate; do
  start "no-huggingface-$run" refuses "$run: can not leave for Hugging Face" ctranslate2 export_run "$run" huggingface float32
done
if [ -z "$quick" ]; then
  for format in huggingface ctranslate2; do
    start "no-$format-rnn" refuses "rnn: can not leave for $format" rnn export_run rnn "$format" float32
  done
fi
settle
start ctranslate2-main ctranslate2 main float32 --lines "$lines"
start ctranslate2-int8 ctranslate2 main int8 --lines "$lines"
for run in pre separate bias; do start "ctranslate2-$run" ctranslate2 "$run" float32 "${few[@]}"; done
if [ -z "$quick" ]; then
  for run in untied decoder; do start "ctranslate2-$run" ctranslate2 "$run" float32 "${few[@]}"; done
  for dtype in int16 float16 bfloat16; do start "ctranslate2-$dtype" ctranslate2 main "$dtype" --lines "$lines"; done
  start ctranslate2-separate-int8 ctranslate2 separate int8 "${few[@]}"
fi
settle

# In
start import-joint import_folder opus-joint
[ -n "$quick" ] || start import-separate import_folder opus-separate
rm -rf "$work/fine-tuned" "$work/fine-tuned-bias"
start finetune check check_finetune "$work/main" "$work/main.huggingface.float32" "$work/fine-tuned"
start finetune-bias check check_finetune "$work/bias" "$work/bias.huggingface.float32" "$work/fine-tuned-bias"
start meaning check check_meaning "$work/main"
start scores check check_scores
start bad-input check bad_input "$work/opus-joint" --run "$work/bias"
settle
start passed-on passed_on opus-joint opus-joint-safetensors
settle

passed=$(grep -c '^ok' "$work/lines" || true) failed=$(grep -c '^FAIL' "$work/lines" || true)
echo "interop: $passed passed, $failed failed, in $((SECONDS / 60)) min $((SECONDS % 60)) s with $("$python" -c 'import platform
from importlib.metadata import version
print("Python", platform.python_version() + ",", ", ".join(f"{p} {version(p)}" for p in ("transformers", "ctranslate2", "torch", "tokenizers", "sentencepiece", "sacrebleu")))')"
[ "$failed" = 0 ]
