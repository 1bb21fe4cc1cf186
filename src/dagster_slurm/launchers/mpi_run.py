"""Runs a payload of Python as one rank, as `python -m mpi4py` does: an exception in it ends all ranks.

Without that, the Python of a rank that has failed waits in MPI_Finalize for the others, for ever. MPI_Abort may end
what started this rank before that can note its end; so it is noted here. It also ends what marks the lines of this
rank, which is given the time to read them.
"""

import atexit
import fcntl
import os
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mpi4py import run

_MOST_SECONDS = 2.0


def noted(status: object, then: Callable[[object], None] = run.set_abort_status) -> None:
    """Note the end of this rank where rank.sh does, then go on."""
    code = status if isinstance(status, int) else 0 if status is None else 1
    if code:
        path = Path(os.environ["DAGSTER_SLURM_RANKS"], os.environ["DAGSTER_SLURM_RANK"])
        node = path.read_text(encoding="utf-8").split()[1]
        written = path.with_name(f"{path.name}.new")
        written.write_text(f"ended {node} {time.time():.6f} {code & 255}\n", encoding="utf-8")
        written.replace(path)
        # Behind the traceback, and before Python's own end, in which mpi4py aborts.
        atexit.register(let_others_read)
    then(status)


def let_others_read() -> None:
    """Wait until what this rank has said was read."""
    until = time.monotonic() + _MOST_SECONDS
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
            while time.monotonic() < until and unread_bytes(stream.fileno()):
                time.sleep(0.01)
    # What was read is written a moment later.
    time.sleep(0.05)


def unread_bytes(pipe: int) -> int:
    """How much of a pipe nobody has read yet (pipe(7), FIONREAD)."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


run.set_abort_status = noted
run.main()
