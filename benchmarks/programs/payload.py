"""The same as payload.sh, for what expects a payload in Python that opens Dagster Pipes."""

import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes():
    for _ in range(10):
        print(f"sent {time.time():.6f}", flush=True)
        time.sleep(1)
    print("done", flush=True)
