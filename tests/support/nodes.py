"""What launchers over several nodes have running there, as tests see and end it."""

from __future__ import annotations

from dagster_slurm.sandbox import Sandbox
from dagster_slurm.sandbox import state as states
from dagster_slurm.sandbox.processes import is_alive


def left_on_nodes(sandbox: Sandbox, *names: str) -> list[str]:
    """What of a cluster is still there, on this machine with all its nodes: processes, files in /tmp and /dev/shm.

    Args:
        sandbox: The sandbox.
        names: Patterns of the names of files, each with the names of the directories it is in, where it needs them.
    """
    processes = sandbox.run(["sh", "-c", "grep -lsz ^DAGSTER_SLURM_NODE= /proc/[0-9]*/environ"]).stdout.split()
    patterns = " -o ".join(f'-path "*/{name}"' for name in names)
    directories = " ".join(["/tmp", "/dev/shm", *shared_memory(sandbox)])
    # Those of the tests of transports, of the same user, have files of any name.
    look = f"find {directories} -not -path '/tmp/contract*' -user {sandbox.user} \\( {patterns} \\)"
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
        told = [each for each in environ.read_bytes().split(b"\\0") if each.startswith(b"DAGSTER_SLURM_NODE=")]
        name = environ.with_name("cmdline").read_bytes()
    except OSError:
        continue
    if told and told[0].endswith(b" {node}") and b"{word}" in name:
        os.kill(int(environ.parent.name), signal.SIGKILL)
"""


def killing_on(node: int, word: str) -> str:
    """Lines of a payload that kill what of a node's task has a word in its command line.

    In the sandbox a payload sees all nodes' processes.
    """
    return _KILLING.format(node=node, word=word)
