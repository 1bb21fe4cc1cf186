"""Keeping away from a Slurm installation that is in use on this machine."""

from __future__ import annotations

from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import processes
from dagster_slurm_sandbox.config import MARKER_VARIABLE

# A munged by itself is no Slurm: Debian starts one wherever the package is installed, and ours has its own socket.
_DAEMONS = frozenset({"slurmctld", "slurmdbd", "slurmd"})


def running() -> dict[str, int]:
    """Daemons of Slurm in this machine's own network namespace that no sandbox has started."""
    here = frozenset({Path("/proc/self/ns/net").stat().st_ino})
    found = {}
    for process in processes.matching(lambda directory: _is_foreign(directory, here)):
        name = (Path("/proc") / str(process.pid) / "comm").read_text(encoding="utf-8").strip()
        found[name] = process.pid
    return found


def _is_foreign(directory: Path, here: frozenset[int]) -> bool:
    # A sandbox's daemons, and those of a container, are in network namespaces of their own.
    name = (directory / "comm").read_text(encoding="utf-8").strip()
    if name not in _DAEMONS or not processes.in_network_namespace(directory, here):
        return False
    return f"{MARKER_VARIABLE}=".encode() not in (directory / "environ").read_bytes()


def refuse_beside() -> None:
    """Refuse to start beside a Slurm in use.

    Raises:
        SandboxError: Its daemons run on this machine.
    """
    if found := running():
        named = ", ".join(f"{name} (process {pid})" for name, pid in sorted(found.items()))
        raise SandboxError(
            f"A Slurm installation is in use on this machine: {named}",
            hint="Run the sandbox on a machine, or in a container, of its own; it does not touch yours.",
        )
