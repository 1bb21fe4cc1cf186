"""What launchers over several nodes have running there, as tests see and end it."""

from __future__ import annotations

from pathlib import Path

from dagster_slurm.sandbox import Sandbox


def left_on_nodes(sandbox: Sandbox, *names: str) -> list[str]:
    """What of a cluster is still there, on this machine with all its nodes: processes, files in /tmp and /dev/shm.

    Args:
        sandbox: The sandbox.
        names: Patterns of the names of files.
    """
    processes = sandbox.run(["sh", "-c", "grep -lsz ^DAGSTER_SLURM_NODE= /proc/[0-9]*/environ"]).stdout.split()
    patterns = " -o ".join(f'-name "{name}"' for name in names)
    files = sandbox.run(["sh", "-c", f'find /tmp /dev/shm -user "$USER" \\( {patterns} \\)']).stdout
    return processes + files.split()


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


def up_files(sandbox: Sandbox, tmp_path: Path) -> str:
    """The files `up` of payloads that have said so."""
    return sandbox.run(["sh", "-c", f"ls ~/test-runs/{tmp_path.name}/*/*/work/up 2>/dev/null"]).stdout
