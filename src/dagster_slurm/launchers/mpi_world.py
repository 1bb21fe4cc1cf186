"""What MPI there is (`library`), or what world comes up (`world`), for mpi.sh; run by the payload's Python."""

import sys

ADD = "Add `mpi4py`, and `mpich`, `openmpi` or `impi-rt` if the cluster has no module with MPI, to the environment"

try:
    import mpi4py

    # The version is known without a world, see MPI_Get_library_version(3).
    mpi4py.rc.initialize = sys.argv[1] == "world"
    from mpi4py import MPI
except ModuleNotFoundError as error:
    sys.exit(f"dagster-slurm: {error} in the environment of {sys.executable}. {ADD}: `uv add mpi4py`.")
except (ImportError, RuntimeError) as error:
    sys.exit(f"dagster-slurm: mpi4py finds no library of MPI: {str(error).splitlines()[0]}. {ADD}.")

if sys.argv[1] == "library":
    said = MPI.Get_library_version().strip("\0\n ").splitlines()[0].split(",")[0]
    print(" ".join(said.replace("Version:", "").split()))
else:
    world = MPI.COMM_WORLD
    size = world.allreduce(1)
    nodes = world.gather(MPI.Get_processor_name().partition(".")[0]) or []
    if world.rank == 0:
        counts = [f"{nodes.count(node)} on {node}" for node in sorted(set(nodes))]
        print(f"dagster-slurm-world {size} {', '.join(counts)}", flush=True)
