"""Runs a payload of Python as one rank, as `python -m mpi4py` does: an exception in it ends all ranks.

Without that, the Python of a rank that has failed waits in MPI_Finalize for the others, for ever. MPI_Abort may end
what started this rank before that can note its end; so it is noted here.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from mpi4py import run


def noted(status: object, then: Callable[[object], None] = run.set_abort_status) -> None:
    """Note the end of this rank where rank.sh does, then go on."""
    code = status if isinstance(status, int) else 0 if status is None else 1
    if code:
        path = Path(os.environ["DAGSTER_SLURM_RANKS"], os.environ["DAGSTER_SLURM_RANK"])
        node = path.read_text(encoding="utf-8").split()[1]
        written = path.with_name(f"{path.name}.new")
        written.write_text(f"ended {node} {time.time():.6f} {code & 255}\n", encoding="utf-8")
        written.replace(path)
    then(status)


run.set_abort_status = noted
run.main()
