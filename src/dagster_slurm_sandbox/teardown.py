"""Taking a sandbox down, and leaving nothing of it behind."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import cgroups, login_node, network, processes, startup, users
from dagster_slurm_sandbox.config import MARKER_VARIABLE, SandboxPaths
from dagster_slurm_sandbox.network import Plan
from dagster_slurm_sandbox.processes import Process
from dagster_slurm_sandbox.programs import run
from dagster_slurm_sandbox.startup import mount_points
from dagster_slurm_sandbox.state import Remains, machine_locked


def remove_all(paths: SandboxPaths, remains: Remains) -> None:
    """Remove every trace of a sandbox, whole or half made.

    Args:
        paths: Where its files lie; names of everything else follow from it.
        remains: What it noted of what it made.

    Raises:
        SandboxError: A process cannot be ended, or a directory is still a mount point.
    """
    end_processes(paths, remains)
    unmount_below(paths.state_dir)
    network.remove(Plan(tag=paths.tag, subnet="0.0.0.0/24", names=()))
    cgroups.remove(paths.tag)
    for entry in users.made(paths):
        users.remove(entry.pw_name)
    login_node.remove_services(paths)
    if remains.user is not None:
        users.remove(remains.user)
    if any(below(point, paths.state_dir) for point in mount_points()):
        raise SandboxError(f"Something is still mounted below {paths.state_dir}", hint="Unmount it and try again.")
    if paths.state_dir.exists():
        shutil.rmtree(paths.state_dir)
    with machine_locked():
        startup.remove_if_last(paths)


def end_processes(paths: SandboxPaths, remains: Remains) -> None:
    """End the daemons by the ids they were started with, then whatever they have left behind.

    Raises:
        SandboxError: New ones keep coming.
    """
    started = [each for each in remains.processes if processes.is_alive(each)]
    trees = [child for each in started for child in processes.descendants(each)]
    # A node's first process waits for all others of the node.
    cgroups.thaw(paths.tag)
    processes.end([*started, *trees])
    deadline = time.monotonic() + 20
    while left := leftovers(paths, remains):
        if time.monotonic() > deadline:
            raise SandboxError(f"Processes {[each.pid for each in left]} keep running", hint="Look at them in /proc.")
        cgroups.thaw(paths.tag)
        processes.end(left)


def leftovers(paths: SandboxPaths, remains: Remains) -> list[Process]:
    """Processes of the sandbox: by marker, network namespace, configuration file, user, or control group."""
    inodes = network.namespace_inodes(paths.tag)
    entry = users.lookup(remains.user) if remains.user is not None else None
    uids = {each.pw_uid for each in [*users.made(paths), *([entry] if entry is not None else [])]}

    def ours(directory: Path) -> bool:
        return (
            processes.in_network_namespace(directory, inodes)
            or processes.has_variable(directory, MARKER_VARIABLE, str(paths.state_dir))
            or _is_sshd_of(directory, paths)
            or any(processes.has_user(directory, uid) for uid in uids)
        )

    found = {each.pid: each for each in [*processes.matching(ours), *cgroups.processes(paths.tag)]}
    return list(found.values())


def _is_sshd_of(directory: Path, paths: SandboxPaths) -> bool:
    # sshd writes its title over its environment, and with it over the marker.
    command = (directory / "cmdline").read_bytes()
    program = command.partition(b": ")[0]
    named = program == b"sshd" or program.startswith(f"dagster-slurm-{paths.tag}-".encode())
    return named and str(paths.ssh).encode() + b"/" in command


def unmount_below(directory: Path) -> None:
    """Unmount everything at and below a directory, the innermost first."""
    points = [point for point in mount_points() if below(point, directory)]
    for point in sorted(points, key=len, reverse=True):
        run(["umount", "--lazy", point])


def below(point: str, directory: Path) -> bool:
    """Whether a mount point is that directory or below it."""
    return Path(point) == directory or directory in Path(point).parents
