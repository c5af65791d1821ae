# shellcheck shell=bash
# Reads a sweep file; sourced by sweep.sh. The file is data: of all that a shell does, only quotes, comments and brace
# expansion happen here.
#
# read_sweep_file FILE fills, one element a run:
#   run_name    name of its folder           run_arguments  --config and --set, one word a line
#   run_line    line of the file             run_config     its config
# and counts in `problems` what it printed as FILE:LINE: PROBLEM.

# Stand for braces that were quoted; lines with control characters are refused, so they are nothing else.
QUOTED_OPEN=$'\002'
QUOTED_CLOSE=$'\003'

problem() { # LINE TEXT
  local text="$file:$1: $2"
  # all runs of a line have the same mistake
  [ "$text" = "$last_problem" ] && return
  last_problem=$text
  problems=$((problems + 1))
  printf '%s\n' "$text" >&2
}

# Splits TEXT into `words`, each written so that `eval` finds nothing in it but braces, commas and dots.
split_words() { # TEXT
  local text=$1 word='' in_word='' quote='' literal c i
  words=()
  for ((i = 0; i < ${#text}; i++)); do
    c=${text:i:1}
    literal=$quote
    if [ "$c" = "$quote" ]; then
      quote=''
      continue
    elif [ "$c" = \\ ] && { [ -z "$quote" ] || [[ ${text:i:2} == [\\][\"\\\$\`] && $quote == \" ]]; }; then
      i=$((i + 1))
      c=${text:i:1}
      literal=yes
      [ -n "$c" ] || fault='ends with a backslash'
    elif [ -z "$quote" ]; then
      case $c in
        [\'\"])
          quote=$c
          in_word=yes
          word+="''"
          continue
          ;;
        [[:blank:]])
          [ -n "$in_word" ] && words+=("$word")
          word=''
          in_word=''
          continue
          ;;
        \#) [ -n "$in_word" ] || break ;;
      esac
    fi
    in_word=yes
    case $literal$c in
      [A-Za-z0-9{},._=/:+%@-]) word+=$c ;;
      ?*\{) word+=$QUOTED_OPEN ;;
      ?*\}) word+=$QUOTED_CLOSE ;;
      *) word+="\\$c" ;;
    esac
  done
  [ -z "$quote" ] || fault="has a $quote without its second"
  [ -z "$in_word" ] || words+=("$word")
}

# All combinations of what the words expand to, in the shell's order, as `combinations`: one word a line.
expand_line() { # TEXT
  local word combination alternative more fault='' open='{' close='}'
  combinations=('')
  case ${1//$'\t'/} in *[[:cntrl:]]*) fault='has control characters' ;; esac
  split_words "$1"
  if [ -n "$fault" ]; then
    problem "$number" "$fault"
    return 1
  fi
  for word in ${words[@]+"${words[@]}"}; do
    # nothing is left for the shell to do here but its brace expansion
    eval "set -- $word"
    [ $# -gt 0 ] || set -- ''
    more=()
    for combination in "${combinations[@]}"; do
      for alternative; do
        case $alternative in
          *[{}]*)
            problem "$number" "\`$alternative\` does not expand: lists are {a,b}, ranges {1..3}, without spaces; a brace that is meant is quoted"
            return 1
            ;;
        esac
        alternative=${alternative//$QUOTED_OPEN/$open}
        more+=("$combination${alternative//$QUOTED_CLOSE/$close}"$'\n')
      done
    done
    combinations=(${more[@]+"${more[@]}"})
  done
}

# Adds to `arguments`, `config` and `own` (the name) what WORDS say.
take_words() { # WORDS, one a line
  local IFS=$'\n' key option value fault
  set -f
  # shellcheck disable=SC2086 # split at line ends
  set -- $1
  set +f
  while [ $# -gt 0 ]; do
    option=$1
    shift
    case $option in
      --set | -s | --config | -c)
        if [ $# -eq 0 ]; then
          problem "$number" "$option needs a value"
          return 1
        fi
        value=$1
        shift
        ;;
      --set=* | --config=*)
        value=${option#*=}
        option=${option%%=*}
        ;;
      --resume* | -r | --force | -f)
        problem "$number" "$option: whether a run is new or goes on is for sweep.sh to say"
        return 1
        ;;
      --threads*)
        problem "$number" "$option: threads are given to sweep.sh: --threads N"
        return 1
        ;;
      *)
        problem "$number" "\`$option\`: a line has only --set KEY=VALUE and --config FILE"
        return 1
        ;;
    esac
    case $option in
      --config | -c)
        if [ -n "$config" ]; then
          problem "$number" "two configs: $config and $value"
          return 1
        fi
        config=$value
        if [ ! -r "$config" ]; then
          problem "$number" "there is no config $config"
          return 1
        fi
        arguments+="--config"$'\n'"$value"$'\n'
        ;;
      *)
        key=${value%%=*}
        key=${key//[[:space:]]/}
        [[ $value == *=* ]] || key='='
        case $key in
          run_dir) fault='sweep.sh names the run folders; --out chooses where they are' ;;
          threads) fault='threads are given to sweep.sh: --threads N' ;;
          =) fault='expected KEY=VALUE' ;;
          *) fault='' ;;
        esac
        if [ -n "$fault" ]; then
          problem "$number" "--set $value: $fault"
          return 1
        fi
        arguments+="--set"$'\n'"$value"$'\n'
        own+="${own:+,}${key##*.}=${value#*=}"
        ;;
    esac
  done
}

read_sweep_file() { # FILE
  file=$1
  problems=0
  last_problem=''
  run_name=() run_arguments=() run_line=() run_config=()
  local number=0 line combination arguments config own all='' several_configs='' names=$'\n' i j
  local words combinations
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    line=${line%$'\r'}
    line=${line#"${line%%[![:blank:]]*}"}
    case $line in
      '' | \#*) ;;
      all:*)
        all=''
        expand_line "${line#all:}" || continue
        if [ ${#combinations[@]} -ne 1 ]; then
          problem "$number" 'all: gives every run the same; what expands to several belongs into the lines'
        else
          all=${combinations[0]}
        fi
        ;;
      *)
        expand_line "$line" || continue
        for combination in ${combinations[@]+"${combinations[@]}"}; do
          arguments='' config='' own=''
          take_words "$all" || break
          own=''
          take_words "$combination" || break
          if [ -z "$config" ]; then
            problem "$number" 'no config; give --config FILE, best in a line above that begins with all:'
            break
          fi
          run_name+=("$own") run_arguments+=("$arguments") run_line+=("$number") run_config+=("$config")
          [ "$config" = "${run_config[0]}" ] || several_configs=yes
        done
        ;;
    esac
  done <"$file"

  for ((i = 0; i < ${#run_name[@]}; i++)); do
    own=${run_name[i]}
    config=${run_config[i]##*/}
    config=${config%.toml}
    [ -n "$own" ] && [ -z "$several_configs" ] || own=$config${own:+,$own}
    own=${own//[!A-Za-z0-9._=,+@%-]/_}
    run_name[i]=$own
    [ ${#own} -le 200 ] || problem "${run_line[i]}" "the name of the run is too long for a folder: $own"
    case $names in
      *$'\n'"$own"$'\n'*)
        for ((j = 0; j < i; j++)); do [ "${run_name[j]}" = "$own" ] && break; done
        problem "${run_line[i]}" "names its run $own, as line ${run_line[j]} does"
        ;;
    esac
    names+=$own$'\n'
  done
  [ ${#run_name[@]} -gt 0 ] || [ "$problems" -gt 0 ] || problem "$number" 'no run in this file'
}
