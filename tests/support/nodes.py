"""What launchers over several nodes have running there, as tests see and end it."""

from __future__ import annotations

import time

from dagster_slurm.sandbox import Sandbox
from dagster_slurm_sandbox import state as states
from dagster_slurm_sandbox.processes import is_alive

# A user of the same number may have left files on this machine before.
_BEGUN = time.time()


def left_on_nodes(sandbox: Sandbox, *names: str) -> list[str]:
    """What of a cluster is still there, on all nodes: processes, and files in /tmp, which they share, and /dev/shm.

    Args:
        sandbox: The sandbox.
        names: Patterns of the names of files, each with the names of the directories it is in, where it needs them.
    """
    processes = sandbox.run(["sh", "-c", "grep -lsz ^DAGSTER_SLURM_NODE= /proc/[0-9]*/environ"]).stdout.split()
    patterns = " -o ".join(f'-path "*/{name}"' for name in names)
    directories = " ".join(["/tmp", *shared_memory(sandbox)])
    # Those of the tests of transports, of the same user, have files of any name.
    ours = f"-not -path '/tmp/contract*' -user {sandbox.user} -newermt @{_BEGUN}"
    look = f"find {directories} {ours} \\( {patterns} \\)"
    files = sandbox.run(["sh", "-c", look], user="root").stdout
    return processes + files.split()


def shared_memory(sandbox: Sandbox) -> list[str]:
    """/dev/shm of each node that has power."""
    state = states.load(sandbox.paths)
    assert state is not None
    daemons = [state.processes[f"slurmd:{name}"] for name in state.config.node_names]
    return [f"/proc/{process.pid}/root/dev/shm" for process in daemons if is_alive(process)]


_KILLING = """
import os, pathlib, signal
for environ in pathlib.Path("/proc").glob("[0-9]*/environ"):
    try:
        is_of_node = b"DAGSTER_SLURM_NODE=" in environ.read_bytes()
        name = environ.with_name("cmdline").read_bytes()
    except OSError:
        continue
    if is_of_node and b"{word}" in name and int(environ.parent.name) != os.getpid():
        os.kill(int(environ.parent.name), signal.SIGKILL)
"""


def killing_on(node: int, word: str) -> str:
    """Lines of a payload that kill what of a node's task has a word in its command line.

    It is done on the node itself: each has processes of its own.
    """
    step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--relative={node}", "python3", "-c"]
    return f"import subprocess\nsubprocess.run([*{step!r}, {_KILLING.format(word=word)!r}], check=True)\n"
