"""The terrain: real elevations around Jacksboro, Tennessee (SRTM), which matplotlib ships as sample data."""

from __future__ import annotations

import numpy as np
from dagster_pipes import open_dagster_pipes
from matplotlib import cbook
from terrain import save

METRES_PER_DEGREE = 111_320


def main() -> None:
    with open_dagster_pipes() as pipes:
        with np.load(cbook.get_sample_data("jacksboro_fault_dem.npz", asfileobj=False)) as dem:
            elevation = dem["elevation"].astype(float)
            latitude = float(dem["ymin"] + dem["ymax"]) / 2
            height = float(dem["dy"]) * METRES_PER_DEGREE
            width = float(dem["dx"]) * METRES_PER_DEGREE * np.cos(np.radians(latitude))
        path = save("elevations", elevation=elevation, cell_m=np.array([height, width]))
        pipes.log.info(f"{elevation.shape[0]} x {elevation.shape[1]} cells of {height:.0f} m x {width:.0f} m")
        pipes.report_asset_check(
            check_name="plausible",
            passed=bool(np.isfinite(elevation).all() and elevation.min() > 0 and elevation.max() < 2025),
            metadata={"highest_peak_of_tennessee_m": 2025},
        )
        pipes.report_asset_materialization(
            metadata={
                "cells": elevation.size,
                "area_km2": round(elevation.size * height * width / 1e6, 1),
                "lowest_m": float(elevation.min()),
                "highest_m": float(elevation.max()),
                "path": {"raw_value": path, "type": "path"},
            }
        )


if __name__ == "__main__":
    main()
