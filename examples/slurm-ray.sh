#!/bin/bash
# Ray on Slurm: one head and its workers, then the run. Not tried by us on a Slurm cluster.
# The run folder has to lie where all nodes see it. sbatch examples/slurm-ray.sh my.yaml
#SBATCH --job-name=steer-bench
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')
export RAY_USAGE_STATS_ENABLED=0
srun --nodes=1 --ntasks=1 -w "${nodes[0]}" ray start --head --node-ip-address="$head" --port=6379 --block &
sleep 20
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" ray start --address="$head:6379" --block &
done
sleep 20
srun --overlap --nodes=1 --ntasks=1 -w "${nodes[0]}" \
  steer-bench run "$1" --out "$SLURM_SUBMIT_DIR/runs/$(basename "$1" .yaml)" --engine ray --address "$head:6379"
