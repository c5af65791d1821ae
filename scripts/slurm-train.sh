#!/usr/bin/env bash
#SBATCH --job-name=nmt-train
#SBATCH --ntasks=4
#SBATCH --cpus-per-task=4
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Trains one run on the ranks of a Slurm job, as often as its time is up, until it is done:
#
#   sbatch scripts/slurm-train.sh CONFIG RUN [arguments of nmt-train]
#
# RUN is the run folder, which all nodes share; options of sbatch before the script win over the lines above. Two minutes
# before the time is up Slurm sends USR1 to all ranks: they save, end with 75, and the job goes back into the queue, to go on
# bit for bit as if it had not stopped. Another number of tasks may be given to a job that goes on, if it divides the
# micro-batches of an update. MPI: which --mpi srun takes (pmix: Open MPI, pmi2: MPICH and Intel MPI; `srun --mpi=list`).
# NMT_TRAIN: the program, if it is not `nmt-train` in PATH.
set -u
config=${1:?'usage: slurm-train.sh CONFIG RUN [ARGUMENT...]'} run=${2:?'usage: slurm-train.sh CONFIG RUN [ARGUMENT...]'}
shift 2
program=${NMT_TRAIN:-nmt-train}
if [ -e "$run/checkpoints/latest" ]; then
  srun --mpi="${MPI:-pmix}" "$program" --resume "$run" "$@"
else
  # a run that ended before its first checkpoint has nothing to go on from
  srun --mpi="${MPI:-pmix}" "$program" --config "$config" --force --set run_dir="$run" "$@"
fi
code=$?
if [ "$code" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
