#!/bin/sh
# Trains one run for each line of a list, two at a time with one thread each, and prints their last validation NLL.
# What is finished is not run again.
#
#   benches/optimizers.sh OUT [LIST] [CONFIG]     in the root of the project, after cargo build --release
#
# OUT: folder for the runs. LIST: benches/optimizers.txt. CONFIG: configs/multi30k-optimizers.toml, whose data must be
# there (see configs/multi30k-en-de.toml). The runs of the list take about three hours on two cores.
set -eu
out=${1:?usage: benches/optimizers.sh OUT [LIST] [CONFIG]}
list=${2:-benches/optimizers.txt}
config=${3:-configs/multi30k-optimizers.toml}
mkdir -p "$out"
export out config

grep -v '^#' "$list" | xargs -P 2 -d '\n' -n 1 sh -c '
    name=${0%% *}
    arguments=${0#* }
    [ -s "$out/$name.json" ] && exit 0
    # word splitting is meant: arguments come as in a shell
    target/release/nmt-train --config "$config" --threads 1 --set run_dir="$out/$name" --force --quiet \
        --final-json "$out/$name.json" $arguments 2> "$out/$name.log" || echo "$name failed: $out/$name.log" >&2
'
for json in "$out"/*.json; do
    name=$(basename "$json" .json)
    # of the last validation: the best one may be another
    grep '"event":"valid"' "$out/$name/metrics.jsonl" | tail -n 1 | sed "s/.*\"nll\":\([0-9.]*\).*/$name \1/"
done | sort -k 2 -n | awk '{ printf "%-24s NLL %.4f\n", $1, $2 }'
