#!/bin/bash
# A job array without Ray: each job measures one shard. The shards themselves are tested on one machine; this script is not
# tried by us on a Slurm cluster. First: steer-bench extract RUN; steer-bench fit RUN. Afterwards: steer-bench run RUN.
#SBATCH --job-name=steer-bench
#SBATCH --array=0-7
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -euo pipefail
steer-bench evaluate "$1" --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
