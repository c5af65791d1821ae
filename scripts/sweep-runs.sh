# shellcheck shell=bash disable=SC2034,SC2154 # variables of sweep.sh
# One run of a sweep: what became of it so far, its command, its start and its end; sourced by sweep.sh.

# Words as one line that a shell takes.
quoted() { # WORD...
  local word line=''
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_=./:,@+%-]*) word="'${word//\'/\'\\\'\'}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

arguments_in() { # RUN -> words
  local IFS=$'\n'
  set -f
  # shellcheck disable=SC2206 # split at line ends
  words=(${run_arguments[$1]})
  set +f
}

is_process_of() { # PID FOLDER
  { tr '\0' ' ' <"/proc/$1/cmdline" || ps -p "$1" -o args=; } 2>/dev/null | grep -qF -- "$2 "
}

has_checkpoint() { # FOLDER
  set -- "$1"/checkpoints/step-*/manifest.json
  [ -f "$1" ]
}

# What became of a run so far -> state: new, lost (died before its first checkpoint), interrupted, done, diverged,
# failed, elsewhere (another process is at it) and code: of the failure, or of the process
look_at() { # RUN
  local dir=$out/${run_name[$1]} word=''
  state=new code=''
  [ -d "$dir" ] || return 0
  if [ -f "$dir/lock" ]; then
    code=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$dir/lock")
    # of processes on other machines nmt-train knows
    if grep -qF "\"$(uname -n)\"" "$dir/lock" && is_process_of "$code" "$dir"; then
      state=elsewhere
      return
    fi
  fi
  [ ! -f "$dir/sweep.status" ] || read -r word code <"$dir/sweep.status"
  case $word in
    done | diverged | failed) state=$word ;;
    *) if has_checkpoint "$dir"; then state=interrupted; elif [ -f "$dir/config.toml" ]; then state=lost; fi ;;
  esac
}

# Whether a run in `state` is to be started.
is_due() {
  case $state in
    new | lost | interrupted) ;;
    failed) [ -n "$retry" ] ;;
    *) false ;;
  esac
}

# A folder that belongs to another line is a problem.
check_folder() { # RUN
  local dir=$out/${run_name[$1]} now
  look_at "$1"
  arguments_in "$1"
  now=$(quoted "${words[@]}")
  if [ ! -f "$dir/sweep.line" ]; then
    [ "$state" = new ] || problem "${run_line[$1]}" "$dir holds a run that no sweep began; choose another --out, or move it"
  elif [ "$now" != "$(cat "$dir/sweep.line")" ] && { [ "$state" != failed ] || has_checkpoint "$dir"; }; then
    [ "$state" = new ] || problem "${run_line[$1]}" "the line of $dir changed; delete the folder to start it over, or choose another --out
  it was  $(cat "$dir/sweep.line")
  it is   $now"
  fi
}

# What nmt-train has to say against the config of a run.
check_config() { # RUN
  local said
  arguments_in "$1"
  # The device is wrong on purpose: a config with a mistake ends the program before it reads any text, in milliseconds.
  said=$("$program" check "${words[@]}" --device none 2>&1 </dev/null |
    sed -e 's/^nmt-train: //' -e '/^--set device=none: /d' -e '/ in the configuration; nothing was started/d')
  [ -z "$said" ] || problem "${run_line[$1]}" "$said"
}

command_of() { # RUN, whose state is known -> words
  local dir=$out/${run_name[$1]}
  if [ "$state" = interrupted ] || { [ "$state" = failed ] && has_checkpoint "$dir"; }; then
    words=("$program" --resume "$dir")
  else
    arguments_in "$1"
    words=("$program" "${words[@]}" --set "run_dir=$dir")
    [ "$state" = new ] || words+=(--force)
  fi
  words+=(--threads "$threads" --quiet --final-json "$dir/final.json")
}

# Replaced, not written over: a reader never sees half of it.
record() { # FOLDER WORD...
  printf '%s\n' "${*:2}" >"$1/sweep.status.new" && mv "$1/sweep.status.new" "$1/sweep.status"
}

start() { # RUN
  local dir=$out/${run_name[$1]} line
  mkdir -p "$dir"
  arguments_in "$1"
  quoted "${words[@]}" >"$dir/sweep.line"
  command_of "$1"
  rm -f "$dir/sweep.status"
  line=$(quoted "${words[@]}")
  printf '%s $ %s\n' "$(date '+%Y-%m-%d %H:%M:%S')" "$line" >>"$dir/sweep.log"
  # A process group of its own: Ctrl-C of the terminal reaches sweep.sh alone, which passes it on once. (nmt-train takes
  # a second one for haste.)
  set -m
  "${words[@]}" </dev/null >/dev/null 2>>"$dir/sweep.log" &
  pid[$1]=$!
  set +m
  began_at[$1]=$SECONDS
  max_updates[$1]=''
  began[$1]=0
  line=started
  if [ "${words[1]}" = --resume ]; then
    progress_of "$1"
    began[$1]=$permille
    line=resumed
  fi
  [ -n "$clear_line" ] || tell "$line  ${run_name[$1]}"
}

# -> step and permille of what a run has done
progress_of() { # RUN
  local dir=$out/${run_name[$1]}
  if [ -z "${max_updates[$1]}" ] && [ -f "$dir/config.toml" ]; then
    max_updates[$1]=$(sed -n 's/^max_updates = \([0-9]*\).*/\1/p' "$dir/config.toml" | head -n 1)
  fi
  step=$(tail -n 1 "$dir/metrics.jsonl" 2>/dev/null | sed -n 's/.*"step":\([0-9]*\).*/\1/p')
  step=${step:-0}
  permille=0
  [ "${max_updates[$1]:-0}" -eq 0 ] || permille=$((1000 * step / max_updates[$1]))
}

ended() { # RUN CODE
  local dir=$out/${run_name[$1]} took
  took=$(duration $((SECONDS - began_at[$1])))
  case $2 in
    0)
      record "$dir" 'done'
      finished=$((finished + 1)) made_ended=$((made_ended + 1000 - began[$1]))
      tell "done     ${run_name[$1]}: $(scores "$dir/final.json")$took"
      ;;
    4)
      record "$dir" diverged
      finished=$((finished + 1)) made_ended=$((made_ended + 1000 - began[$1])) diverged=$((diverged + 1))
      tell "diverged ${run_name[$1]}: $took"
      ;;
    *)
      if [ "$2" -eq 75 ] || { [ "$2" -gt 128 ] && [ "$stop" -gt 0 ]; }; then
        record "$dir" interrupted
        interrupted=$((interrupted + 1))
        tell "stopped  ${run_name[$1]}: $took"
      elif [ -f "$dir/lock" ] && [ "$2" -lt 128 ]; then
        # It leaves no lock of its own behind.
        elsewhere=$((elsewhere + 1))
        tell "running elsewhere: ${run_name[$1]}: $(last_said "$dir")"
      else
        record "$dir" failed "$2"
        failed=$((failed + 1))
        tell "failed   ${run_name[$1]}: exit code $2, $dir/sweep.log: $(last_said "$dir")"
      fi
      ;;
  esac
}

# A run that is not started: what it counts as.
skipped() { # RUN, whose state is known
  case $state in
    done) finished=$((finished + 1)) ;;
    diverged) finished=$((finished + 1)) diverged=$((diverged + 1)) ;;
    failed) failed=$((failed + 1)) ;;
    elsewhere)
      elsewhere=$((elsewhere + 1))
      tell "running elsewhere: ${run_name[$1]}: process $code"
      ;;
  esac
}

# The last line of a run's log, if it is not the command.
last_said() { # FOLDER
  tail -n 1 "$1/sweep.log" | sed '/^[-0-9]* [:0-9]* \$ /s/.*/it said nothing/'
}

scores() { # FINAL_JSON
  local key value text=''
  for key in best_nll test_bleu; do
    value=$(sed -n 's/.*"'$key'":\([0-9.]*\)[,}].*/\1/p' "$1" 2>/dev/null)
    [ -z "$value" ] || text+="$(printf '%s %.4g, ' "$key" "$value")"
  done
  printf '%s' "$text"
}
