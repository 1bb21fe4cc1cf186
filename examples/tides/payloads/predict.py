"""The payload: the highest tide of a day, from the constituents that matter most."""

from datetime import datetime

import numpy as np
from dagster_pipes import open_dagster_pipes

# Amplitude in metres and period in hours of M2, S2, N2 and K1.
CONSTITUENTS = np.array([(1.42, 12.4206), (0.44, 12.0), (0.28, 12.6583), (0.09, 23.9345)])

with open_dagster_pipes() as pipes:
    day = datetime.fromisoformat(pipes.get_extra("day"))
    hours = np.arange(0, 24, 0.1) + (day - datetime(2000, 1, 1)).total_seconds() / 3600
    amplitudes, periods = CONSTITUENTS.T
    heights = (amplitudes * np.cos(2 * np.pi * hours[:, None] / periods)).sum(axis=1)
    print(f"{day:%A %d %B %Y}: {heights.max():.2f} m")
    pipes.report_asset_materialization(metadata={"highest_m": round(float(heights.max()), 2)})
