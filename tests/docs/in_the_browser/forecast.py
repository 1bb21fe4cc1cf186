import math
import time

from dagster_pipes import open_dagster_pipes

with open_dagster_pipes() as pipes:
    steps, field = pipes.get_extra("steps"), bytearray()
    for step in range(1, steps + 1):
        print(f"solving step {step} of {steps}", flush=True)
        pipes.log.info(f"step {step} of {steps}: residual {math.exp(-step):.1e}")
        # A grid that grows, and some work: its plot is in the docs.
        field += bytes(10 << 20)
        worked = time.process_time() + 0.5
        while time.process_time() < worked:
            pass
        time.sleep(1.5)
    pipes.report_asset_materialization(metadata={"steps": steps, "residual": round(math.exp(-steps), 6)})
