"""Sends a line to Dagster's log twice a second, for 10 s, each with its time."""

import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    for _ in range(20):
        pipes.log.info(f"sent {time.time():.6f}")
        time.sleep(0.5)
