"""One Slurm node with 8 GPUs through submitit (pip install submitit). Not tried by us on a Slurm cluster.

python examples/submitit_node.py my.yaml
"""

import subprocess
import sys

import submitit


def work(experiment: str) -> int:
    return subprocess.run(["steer-bench", "run", experiment, "--processes", "8"]).returncode


if __name__ == "__main__":
    executor = submitit.AutoExecutor(folder="slurm-logs")
    executor.update_parameters(nodes=1, tasks_per_node=1, gpus_per_node=8, cpus_per_task=64, timeout_min=720)
    print(executor.submit(work, sys.argv[1]).job_id)
