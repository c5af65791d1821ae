#!/usr/bin/env bash
# What back-translation gives (docs/back-translation.md), measured on a corpus of one's own:
#
#   scripts/back-translation.sh CONFIG OUT [options of training: --threads 2 --set train.max_updates=4000 ...]
#
# Half of the pairs of CONFIG (the odd lines) are kept as pairs; of the others the target side alone, as if it were text in
# one language. A model of the other direction, trained on the pairs, translates that text back, and for each seed two models
# are trained for the same number of updates: on the pairs alone, and on the pairs and the text that was translated back.
# Called again it goes on where it stopped. CONFIG names in [data], on a line each: train, valid and test as two files,
# source_language, target_language.
#
# SEEDS="1 2 3", TAG="<BT>" (empty: none), WEIGHT=1.0 (passes over the translated text in an epoch), HOW="--sampling" (how it
# is translated; "--beam 5" for a search), NMT_TRAIN: the program.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
config=$1 out=$2
shift 2
options=("$@")
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
program=${NMT_TRAIN:-$project/target/release/nmt-train}
[ -n "${NMT_TRAIN:-}" ] || [ -x "$program" ] || program=nmt-train
read -ra how <<<"${HOW:---sampling}"
tag=${TAG-<BT>}

files() { sed -n "s/^$1 *= *\\[\"\\([^\"]*\\)\", *\"\\([^\"]*\\)\"\\].*/\\1\\n\\2/p" "$config" | head -n 2; }
language() { sed -n "s/^$1_language *= *\"\\([^\"]*\\)\".*/\\1/p" "$config" | head -n 1; }
pair() { printf '["%s", "%s"]' "$1" "$2"; }
mapfile -t train < <(files train)
mapfile -t valid < <(files valid)
mapfile -t test < <(files test)
source=$(language source) target=$(language target)
for found in "${train[*]}" "${valid[*]}" "${test[*]}" "$source" "$target"; do
  [ -n "$found" ] || { echo "back-translation.sh: $config must name train, valid, test (two files each) and languages" >&2; exit 2; }
done

# A run: begun, gone on with, or finished already.
run() {
  local folder=$1
  shift
  [ -s "$folder/final.json" ] && return
  echo "== $folder" >&2
  if [ -e "$folder/checkpoints/latest" ]; then
    "$program" --resume "$folder" --final-json "$folder/final.json.part"
  else
    "$program" --config "$config" "${options[@]}" --force --set "run_dir=$folder" "$@" --final-json "$folder.json"
    mv "$folder.json" "$folder/final.json.part"
  fi
  mv "$folder/final.json.part" "$folder/final.json"
}

mkdir -p "$out"
pairs=("$out/pairs.$source" "$out/pairs.$target") mono=$out/mono.$target back=$out/back.$source
if [ ! -s "$mono" ]; then
  for side in 0 1; do gzip -cdf "${train[$side]}" | awk 'NR % 2 == 1' >"${pairs[$side]}"; done
  gzip -cdf "${train[1]}" | awk 'NR % 2 == 0' >"$mono.part"
  mv "$mono.part" "$mono"
fi

# One vocabulary for all (or one a language), of the pairs alone; the tag is in it for want of a corpus that has it yet.
tagged=""
[ -z "$tag" ] || tagged=", tag = \"$tag\""
[ -s "$out/tokenizer.json" ] || "$program" tokenizer --config "$config" --out "$out" \
  --set "data.train=[{ files = $(pair "${pairs[@]}") }, { files = $(pair "${pairs[@]}")$tagged }]"

forward=(--set "tokenizer.path=$out/tokenizer.json") reverse=(--set "tokenizer.path=$out/tokenizer.json")
if [ -e "$out/tokenizer.target.json" ]; then
  forward+=(--set "tokenizer.target_path=$out/tokenizer.target.json")
  reverse=(--set "tokenizer.path=$out/tokenizer.target.json" --set "tokenizer.target_path=$out/tokenizer.json")
fi

run "$out/reverse" "${reverse[@]}" --set "data.train=$(pair "${pairs[1]}" "${pairs[0]}")" \
  --set "data.valid=$(pair "${valid[1]}" "${valid[0]}")" \
  --set data.test=[] --set "data.source_language=$target" --set "data.target_language=$source"
[ -s "$back" ] || "$program" translate "$out/reverse" "${how[@]}" --input "$mono" --output "$back"

both="[{ files = $(pair "${pairs[@]}") }, { files = $(pair "$back" "$mono"), weight = ${WEIGHT:-1.0}$tagged }]"
for seed in ${SEEDS:-1 2 3}; do
  run "$out/base-$seed" "${forward[@]}" --set "seed=$seed" --set "data.train=$(pair "${pairs[@]}")"
  run "$out/back-$seed" "${forward[@]}" --set "seed=$seed" --set "data.train=$both"
done

# Scores, and the mean gain with its standard error over the seeds.
score() { sed -n "s/.*\"test_$2\": *\\([0-9.]*\\).*/\\1/p" "$1/final.json" | head -n 1; }
for metric in bleu chrf; do
  for seed in ${SEEDS:-1 2 3}; do
    echo "$metric $seed $(score "$out/base-$seed" "$metric") $(score "$out/back-$seed" "$metric")"
  done
done | awk '
  NR == 1 { print "metric  seed   pairs  +back    gain" }
  { gain = $4 - $3; printf "%-6s  %4s  %6.2f %6.2f  %+6.2f\n", $1, $2, $3, $4, gain
    n[$1]++; sum[$1] += gain; squares[$1] += gain * gain; if (n[$1] == 1) order[++metrics] = $1 }
  END { for (i = 1; i <= metrics; i++) { m = order[i]; mean = sum[m] / n[m]
    error = n[m] > 1 ? sqrt((squares[m] - n[m] * mean * mean) / (n[m] - 1) / n[m]) : 0
    printf "%-6s  gain %+.2f, standard error %.2f over %d seeds\n", m, mean, error, n[m] } }'
