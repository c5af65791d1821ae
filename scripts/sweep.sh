#!/usr/bin/env bash
# Trains every run of a file. A second call goes on where the first one stopped: finished runs are skipped, interrupted
# ones resumed. Ctrl-C, SIGTERM and SIGUSR1 make the runs save and stop; another one, two seconds later or more, ends them
# at once.
#
#   scripts/sweep.sh FILE [--jobs N] [--threads N] [--out DIR] [--retry] [--dry-run] [--line N] [--count]
#
#   --jobs N      runs at once [1]
#   --threads N   threads of each run [cores divided by --jobs]
#   --out DIR     sweep folder [runs/sweep-NAME for NAME.txt]
#   --retry       try failed runs again (those that diverged have a result and are not tried again)
#   --dry-run     print the commands that would be run
#   --line N      only run number N, counted over all that the lines expand to
#   --count       print the number of runs
#
# A line of FILE is the arguments of one run or, with {a,b} and {1..3}, of several:
#   all: --config configs/quickstart.toml --set train.max_updates=1000
#   --set optimizer.name=adam --set optimizer.lr={2e-3,4e-3} --set seed={1..3}     # six runs
# What stands after `all:` is given to the lines below it, up to the next `all:`. Of a shell's ways only these hold:
# quotes, \, comments, braces.
# A run's folder is named by its line (name=adam,lr=2e-3,seed=1; the config first, where there are several) and holds,
# beside what nmt-train writes there, final.json, sweep.log (stderr), sweep.line and sweep.status (done, diverged,
# interrupted, failed CODE).
#
# nmt-train is $NMT_TRAIN, else the project's target/release/nmt-train, else the one in PATH.
# Exit codes: 0 all done, 1 some failed, 2 wrong arguments, 3 wrong file or run folders and nothing was started,
# 75 interrupted.

# No -e: Ctrl-C also ends whatever helper runs at that moment, and that must not end the sweep.
set -u
scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/sweep-lines.sh
. "$scripts/sweep-lines.sh"
# shellcheck source=scripts/sweep-runs.sh
. "$scripts/sweep-runs.sh"

usage() {
  sed -n '/^#$/,/^$/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

wrong() { # MESSAGE
  printf 'sweep.sh: %s\n' "$1" >&2
  exit 2
}

number_of() { # OPTION VALUE
  case $2 in '' | *[!0-9]* | 0*) wrong "$1 needs a whole number from 1" ;; esac
  [ ${#2} -le 9 ] || wrong "$1 $2 is too large"
}

logical_cores() {
  nproc 2>/dev/null || sysctl -n hw.logicalcpu 2>/dev/null || echo 1
}

# As nmt-train bounds its threads. What is only printed may be meant for another machine.
bounded() { # OPTION VALUE
  local most=$((4 * $(logical_cores)))
  [ "$mode" != run ] || [ "$2" -le "$most" ] || wrong "$1 $2: $most at most, 4 for each core"
}

parse_arguments() {
  sweep_file='' out='' jobs=1 threads='' only='' retry='' mode=run
  while [ $# -gt 0 ]; do
    case $1 in
      --jobs | --threads | --line | --out) [ $# -gt 1 ] || wrong "$1 needs a value" ;;
    esac
    case $1 in
      --jobs | --threads | --line) number_of "$1" "$2" ;;
    esac
    case $1 in
      --jobs) jobs=$2 && shift ;;
      --threads) threads=$2 && shift ;;
      --line) only=$2 && shift ;;
      --out) out=${2%/} && shift ;;
      --retry) retry=yes ;;
      --dry-run) mode=dry-run ;;
      --count) mode=count ;;
      -h | --help)
        usage
        exit
        ;;
      -*) wrong "unknown option $1; see --help" ;;
      *)
        [ -z "$sweep_file" ] || wrong "two sweep files: $sweep_file and $1"
        sweep_file=$1
        ;;
    esac
    shift
  done
  bounded --jobs "$jobs"
  bounded --threads "${threads:-1}"
  [ -n "$sweep_file" ] || wrong 'which sweep file? see --help'
  if [ ! -f "$sweep_file" ] || [ ! -r "$sweep_file" ]; then wrong "can not read $sweep_file"; fi
  if [ -z "$out" ]; then
    out=${sweep_file##*/}
    out=runs/sweep-${out%.*}
  fi
}

find_program() {
  program=${NMT_TRAIN:-${scripts%/scripts}/target/release/nmt-train}
  [ -n "${NMT_TRAIN:-}" ] || [ -x "$program" ] || program=nmt-train
  command -v "$program" >/dev/null || wrong "there is no $program: cargo build --release, or set NMT_TRAIN"
}

physical_cores() {
  local cores siblings=''
  cores=$(nproc 2>/dev/null || sysctl -n hw.physicalcpu 2>/dev/null || echo 1)
  # as nmt-train counts
  read -r siblings 2>/dev/null </sys/devices/system/cpu/cpu0/topology/thread_siblings_list
  case $siblings in *[,-]*) cores=$((cores / 2)) ;; esac
  echo "$cores"
}

# Everything that can be wrong is found before anything starts.
check_all() {
  local run
  for run in "${chosen[@]}"; do
    check_folder "$run"
    # what goes on has the config in its folder
    if is_due && [ "$state" != interrupted ]; then check_config "$run"; fi
  done
}

give_up_on_problems() {
  case $problems in
    0) return ;;
    1) echo '1 problem; nothing was started.' >&2 ;;
    *) echo "$problems problems; nothing was started." >&2 ;;
  esac
  exit 3
}

dry_run() {
  local run
  for run in "${chosen[@]}"; do
    look_at "$run"
    tell "$(printf '%-11s %s' "$state" "${run_name[run]}")"
    is_due && command_of "$run" && quoted "${words[@]}"
  done
}

# --- on the terminal ------------------------------------------------------------------------------------------------

tell() { # LINE
  printf '%s%s\n' "$clear_line" "$1" >&2
}

duration() { # SECONDS
  if [ "$1" -ge 3600 ]; then
    printf '%d h %02d min' $(($1 / 3600)) $(($1 % 3600 / 60))
  elif [ "$1" -ge 60 ]; then
    printf '%d min %02d s' $(($1 / 60)) $(($1 % 60))
  else
    printf '%d s' "$1"
  fi
}

summary() {
  local text="$finished of ${#chosen[@]} done"
  [ ${#active[@]} -eq 0 ] || text+=", ${#active[@]} running"
  [ "$diverged" -eq 0 ] || text+=", $diverged of them diverged"
  [ "$failed" -eq 0 ] || text+=", $failed failed"
  [ "$elsewhere" -eq 0 ] || text+=", $elsewhere running elsewhere"
  printf '%s' "$text"
}

# `12 of 40 done, 2 running, 1 failed | name=adam,lr=2e-3 step 350/1000 | ETA 1 h 12 min`
live_line() {
  local run i shown='' left=$((1000 * (${#chosen[@]} - seen + ${#active[@]}))) made=$made_ended eta='' columns
  [ -n "$clear_line" ] && [ "$SECONDS" != "$drawn" ] || return 0
  drawn=$SECONDS
  for ((i = 0; i < ${#active[@]}; i++)); do
    run=${active[i]}
    progress_of "$run"
    left=$((left - permille))
    made=$((made + permille - began[run]))
    # several runs take turns
    [ $((SECONDS / 4 % ${#active[@]})) -ne "$i" ] || shown="${run_name[run]} step $step/${max_updates[run]:-?}"
  done
  [ "$made" -lt 20 ] || eta=" | ETA $(duration $((left * SECONDS / made)))"
  [ "$stop" -eq 0 ] || eta=' | saving and stopping; once more ends at once'
  shown="$(summary) | $shown$eta"
  columns=$(stty size 2>/dev/null </dev/tty)
  columns=${columns#* }
  printf '%s%s' "$clear_line" "${shown:0:$((${columns:-80} - 1))}" >&2
}

last_words() {
  local again
  tell "$(summary)"
  again=$(quoted "$0" "${given[@]}")
  if [ "$stop" -gt 0 ]; then
    tell "stopped; to go on: $again"
  elif [ "$failed" -gt 0 ] && [ -z "$retry" ]; then
    tell "to try what failed again: $again --retry"
  elif [ "$interrupted" -gt 0 ]; then
    tell "to go on with $interrupted interrupted: $again"
  fi
  [ -n "$only" ] || [ "$finished" -eq 0 ] || tell "nmt-train report $(quoted "$out")"
}

# --- the sweep ------------------------------------------------------------------------------------------------------

# Only counts: what a signal asks for is done by the loop, between two looks at the runs.
signalled() {
  # A wrapper that passes on what the terminal or the queue sent to all makes two of one.
  [ "$stop" -gt 0 ] && [ $((SECONDS - first_signal)) -lt 2 ] && return
  [ "$stop" -gt 0 ] || first_signal=$SECONDS
  stop=$((stop + 1))
}

pass_signals() {
  [ "$stop" -gt "$passed" ] || return 0
  passed=$stop
  [ ${#active[@]} -eq 0 ] || tell "stopping: ${#active[@]} running; a second signal ends them at once"
  local run
  for run in ${active[@]+"${active[@]}"}; do kill -TERM "${pid[run]}" 2>/dev/null; done
}

collect_ended() {
  local run still=()
  for run in ${active[@]+"${active[@]}"}; do
    if kill -0 "${pid[run]}" 2>/dev/null; then
      still+=("$run")
    else
      wait "${pid[run]}" 2>/dev/null
      ended "$run" $?
    fi
  done
  active=(${still[@]+"${still[@]}"})
}

start_due() {
  local run
  while [ "$stop" -eq 0 ] && [ ${#active[@]} -lt "$jobs" ] && [ "$seen" -lt ${#chosen[@]} ]; do
    run=${chosen[seen]}
    seen=$((seen + 1))
    look_at "$run"
    if is_due; then
      start "$run"
      active+=("$run")
    else
      skipped "$run"
    fi
  done
}

given=("$@")
parse_arguments "$@"
read_sweep_file "$sweep_file"
if [ "$mode" = count ]; then
  give_up_on_problems
  echo "${#run_name[@]}"
  exit
fi
find_program
chosen=()
if [ -n "$only" ]; then
  [ "$only" -le ${#run_name[@]} ] || [ "$problems" -gt 0 ] || wrong "--line $only: $sweep_file has ${#run_name[@]} runs"
  chosen=($((only - 1)))
else
  for ((i = 0; i < ${#run_name[@]}; i++)); do chosen+=("$i"); done
fi
give_up_on_problems
check_all
give_up_on_problems
if [ -z "$threads" ]; then
  threads=$(($(physical_cores) / jobs))
  [ "$threads" -gt 0 ] || threads=1
fi

clear_line=''
if [ "$mode" = dry-run ]; then
  dry_run
  exit 0
fi
[ -t 2 ] && clear_line=$'\r\033[K'
active=() pid=() began=() max_updates=()
seen=0 finished=0 made_ended=0 diverged=0 failed=0 interrupted=0 elsewhere=0
stop=0 passed=0 first_signal=0 drawn=-1
SECONDS=0
trap signalled INT TERM USR1 HUP
while :; do
  pass_signals
  collect_ended
  start_due
  [ ${#active[@]} -gt 0 ] || break
  live_line
  # bash would announce here what was killed, in its own words
  { sleep 0.2; } 2>/dev/null
done
last_words
[ "$stop" -eq 0 ] || exit 75
[ "$failed" -eq 0 ] || exit 1
[ "$interrupted" -eq 0 ] || exit 75
[ "$elsewhere" -eq 0 ] || exit 1
