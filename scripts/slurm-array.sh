#!/usr/bin/env bash
#SBATCH --job-name=nmt-sweep
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Runs a sweep file (`nmt-train sweep --help`) as a Slurm array. In the root of the project, where sweep.sh is called too:
#
#   sbatch --array=1-$(scripts/sweep.sh FILE --count) scripts/slurm-array.sh FILE [--out DIR]
#
# Options of sbatch before the script win over the lines above: --array=1-40%8, --time, --mem, --cpus-per-task (the
# threads of a run). Two minutes before the time is up the run saves and its task goes back into the queue; it goes on
# bit for bit as if it had not stopped. scancel makes the run save too (within Slurm's KillWait), without a way back:
# submit again, finished runs take a second. Leave FILE as it is while tasks wait: they know their run by its number.
set -u
task=${SLURM_ARRAY_TASK_ID:?'no array task: submit with sbatch --array, or call scripts/sweep.sh'}

cancelled='' run=''
# What Slurm sends before the end of time reaches this script alone (B:), so it is passed on.
trap 'kill -USR1 "$run"' USR1
# What scancel and preemption send reaches every process of the task. A run would take a second one for haste, so
# the sweep, which passes on what it hears, does not hear it.
trap 'cancelled=yes' TERM
(
  trap '' TERM
  exec scripts/sweep.sh "$@" --index "$task" --threads "${SLURM_CPUS_PER_TASK:-1}"
) &
run=$!

wait "$run"
# A signal ends `wait` before the run has ended.
while kill -0 "$run" 2>/dev/null; do wait "$run"; done
wait "$run"
code=$?
if [ "$code" -eq 75 ] && [ -z "$cancelled" ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
fi
exit "$code"
