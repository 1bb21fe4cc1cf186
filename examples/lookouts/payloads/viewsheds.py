"""What can be seen from each hill top: many lines of sight, on as many CPUs as the job was given."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from dagster_pipes import open_dagster_pipes
from numpy.lib.stride_tricks import sliding_window_view
from terrain import Array, load, save, visible_from


def hill_tops(elevation: Array, reach: int) -> Array:
    """Row and column of every cell that is the highest within `reach` cells around it."""
    padded = np.pad(elevation, reach, constant_values=-np.inf)
    highest = sliding_window_view(padded, (2 * reach + 1, 2 * reach + 1)).max(axis=(2, 3))
    return np.argwhere(elevation == highest)


def viewshed(site: Array, elevation: Array, cell_m: tuple[float, float], tower_m: float) -> Array:
    """The cells seen from one site, eight to a byte."""
    return np.packbits(visible_from(elevation, cell_m, site[0], site[1], tower_m))


def main() -> None:
    with open_dagster_pipes() as pipes:
        terrain = load("elevations")
        elevation, cell_m = terrain["elevation"], tuple(terrain["cell_m"])
        sites = hill_tops(elevation, reach=int(pipes.get_extra("reach_cells")))
        look = partial(viewshed, elevation=elevation, cell_m=cell_m, tower_m=float(pipes.get_extra("tower_m")))

        cpus = int(os.environ.get("SLURM_CPUS_PER_TASK") or os.cpu_count() or 1)
        pipes.log.info(f"{len(sites)} hill tops on {cpus} CPUs")
        found = []
        with ProcessPoolExecutor(cpus) as pool:
            for number, cells in enumerate(pool.map(look, sites, chunksize=4), start=1):
                found.append(cells)
                if number % 50 == 0:
                    print(f"{number} of {len(sites)} hill tops", flush=True)

        seen = np.stack(found)
        shares = np.unpackbits(seen, axis=1, count=elevation.size).mean(axis=1)
        save("viewsheds", sites=sites, seen=seen)
        pipes.report_asset_materialization(
            metadata={
                "hill_tops": len(sites),
                "best_site_sees_pct": round(100 * float(shares.max()), 1),
                "median_site_sees_pct": round(100 * float(np.median(shares)), 1),
            }
        )


if __name__ == "__main__":
    main()
