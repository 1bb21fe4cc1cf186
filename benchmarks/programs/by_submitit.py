"""Many calls of a function as one array, with `submitit` on the login node.

by_submitit.py NUMBER SECONDS
"""

import sys
import time

import submitit


def work(seconds: int) -> str:
    for _ in range(seconds):
        print(f"sent {time.time():.6f}", flush=True)
        time.sleep(1)
    return "done"


if __name__ == "__main__":
    number, seconds = int(sys.argv[1]), int(sys.argv[2])
    executor = submitit.AutoExecutor(folder="submitit")
    # All at once, as far as the cluster has places; submitit's default is 256 at a time.
    executor.update_parameters(
        timeout_min=10, slurm_partition="compute", cpus_per_task=1, slurm_mem="50M", slurm_array_parallelism=number
    )
    jobs = executor.map_array(work, [seconds] * number)
    assert [job.result() for job in jobs] == ["done"] * number
