"""Directories outside the state directory that a sandbox makes where they are missing, shared by all sandboxes."""

from __future__ import annotations

from pathlib import Path

from dagster_slurm_sandbox import processes
from dagster_slurm_sandbox.config import MARKER_VARIABLE, SandboxPaths
from dagster_slurm_sandbox.programs import run


def note(paths: SandboxPaths, directory: Path) -> None:
    """Note that a directory is about to be made, so that it goes with the last sandbox."""
    known = _noted(paths)
    if str(directory) not in known:
        paths.made_file.write_text("".join(f"{each}\n" for each in [*known, directory]), encoding="utf-8")


def _noted(paths: SandboxPaths) -> list[str]:
    return paths.made_file.read_text(encoding="utf-8").splitlines() if paths.made_file.exists() else []


def remove_if_last(paths: SandboxPaths) -> None:
    """Remove what was noted, if no other sandbox is there and nobody else has put something into it.

    A sandbox of another base directory needs them as well, and has not noted what it found: it shows by its processes.
    """
    if any(each.is_dir() for each in paths.state_dir.parent.iterdir()):
        return
    is_needed = processes.matching(lambda path: processes.has_variable(path, MARKER_VARIABLE))
    for directory in [] if is_needed else map(Path, _noted(paths)):
        if directory.is_dir() and not any(directory.iterdir()):
            # `ip netns` mounts /run/netns onto itself.
            while _is_mounted(directory):
                run(["umount", str(directory)])
            directory.rmdir()
    paths.made_file.unlink(missing_ok=True)


def _is_mounted(directory: Path) -> bool:
    """Whether something is mounted there, be it the directory itself, which `Path.is_mount` does not see.

    Source: proc_pid_mountinfo(5); the fifth field is the mount point.
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(mount.split()[4] == str(directory) for mount in mounts)
