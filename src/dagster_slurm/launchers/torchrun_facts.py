"""How many ranks a node has, a free port, and the version of torch, for torchrun.sh; run by the payload's Python."""

import os
import random
import socket
import sys
from importlib import import_module


def free_port() -> int:
    """A port that nobody has, below those that Linux gives to outgoing connections (32768 on)."""
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - only so that two jobs of a node do not take the same
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port


try:
    # Not as a statement: the tools that read this file have no torch.
    torch = import_module("torch")
except ModuleNotFoundError as error:
    sys.exit(f"dagster-slurm: {error} in the environment of {sys.executable}. Add it: `uv add torch`.")

processes = sys.argv[1]
if processes == "auto":
    # As torchrun does it: a rank for each GPU, or else for each CPU of the job.
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processes = str(gpus or int(os.environ.get("SLURM_CPUS_ON_NODE", "0")) or os.cpu_count() or 1)
print(processes, free_port(), torch.__version__)
