"""Heat in a square plate whose edge is kept cold: an explicit five-point stencil, with rows shared out among ranks.

A plate that begins as sin(pi x) sin(pi y) only fades, as exp(-2 pi^2 t): so the error of the result is known.
"""

import math

import numpy as np
from dagster_pipes import open_dagster_pipes
from mpi4py import MPI


def rows_of(rank: int, ranks: int, rows: int) -> range:
    """The inner rows of a rank, as even as it goes."""
    return range(1 + rank * rows // ranks, 1 + (rank + 1) * rows // ranks)


def step(plate: np.ndarray, world: MPI.Intracomm) -> np.ndarray:
    """One step of time: the neighbours' rows at the border come in, then each point moves towards its neighbours."""
    above = world.rank - 1 if world.rank > 0 else MPI.PROC_NULL
    below = world.rank + 1 if world.rank + 1 < world.size else MPI.PROC_NULL
    world.Sendrecv(plate[1], dest=above, recvbuf=plate[-1], source=below)
    world.Sendrecv(plate[-2], dest=below, recvbuf=plate[0], source=above)
    new = plate.copy()
    around = plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]
    new[1:-1, 1:-1] += 0.25 * (around - 4 * plate[1:-1, 1:-1])
    return new


def main() -> None:
    """Let the plate cool, and report what is left of its heat."""
    world = MPI.COMM_WORLD
    # Every rank has the extras; what rank 0 reports is heard.
    with open_dagster_pipes() as pipes:
        points, steps = pipes.get_extra("points"), pipes.get_extra("steps")
        spacing = 1 / (points + 1)
        mine = rows_of(world.rank, world.size, points)
        x = np.arange(points + 2) * spacing
        y = np.arange(mine.start - 1, mine.stop + 1) * spacing
        plate = np.outer(np.sin(math.pi * y), np.sin(math.pi * x))
        for _ in range(steps):
            plate = step(plate, world)
        fading = math.exp(-2 * math.pi**2 * steps * 0.25 * spacing**2)
        exact = fading * np.outer(np.sin(math.pi * y), np.sin(math.pi * x))
        error = world.allreduce(float(np.abs(plate - exact)[1:-1].max()), op=MPI.MAX)
        hottest = world.allreduce(float(plate[1:-1].max()), op=MPI.MAX)
        nodes = world.gather(MPI.Get_processor_name()) or []
        print(f"rows {mine.start} to {mine.stop - 1}", flush=True)
        if world.rank == 0:
            metadata = {"hottest": hottest, "error": error, "ranks": world.size, "nodes": len(set(nodes))}
            pipes.report_asset_materialization(metadata=metadata)


if __name__ == "__main__":
    main()
