import math
import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    steps = pipes.get_extra("steps")
    for step in range(1, steps + 1):
        print(f"solving step {step} of {steps}", flush=True)
        pipes.log.info(f"step {step} of {steps}: residual {math.exp(-step):.1e}")
        time.sleep(1.0)
    pipes.report_asset_materialization(metadata={"steps": steps, "residual": round(math.exp(-steps), 6)})
