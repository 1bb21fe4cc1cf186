"""Control groups: whether jobs can be held to their memory here, and a subtree for every node."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dagster_slurm_sandbox.processes import Process, identify

ROOT = Path("/sys/fs/cgroup")
# What proctrack/cgroup and ConstrainRAMSpace use; enter.sh has the same list.
CONTROLLERS = ("memory", "freezer")


def group(tag: str) -> str:
    """The name of the sandbox's directory below each controller."""
    return f"dagster-slurm-{tag}"


def why_not(tag: str) -> str:
    """Why memory cannot be enforced on this machine; empty if it can."""
    if (ROOT / "cgroup.controllers").exists():
        return "this machine has control groups of version 2 only, which Slurm's plugin uses through systemd"
    for controller in CONTROLLERS:
        if not (ROOT / controller / "cgroup.procs").exists():
            return f"the {controller} controller is not mounted at {ROOT / controller}"
        try:
            (ROOT / controller / group(tag)).mkdir(exist_ok=True)
        except OSError as error:
            return f"{ROOT / controller} cannot be written ({error.strerror})"
    return ""


def ensure(tag: str, nodes: Iterable[str]) -> None:
    """Make the nodes' directories."""
    for node in nodes:
        for controller in CONTROLLERS:
            (ROOT / controller / group(tag) / node).mkdir(parents=True, exist_ok=True)


def processes(tag: str, node: str | None = None) -> list[Process]:
    """All processes in the sandbox's groups, or in those of one node."""
    found: dict[int, Process] = {}
    for controller in CONTROLLERS:
        top = ROOT / controller / group(tag)
        for listing in (top / node if node else top).rglob("cgroup.procs"):
            with suppress(OSError):  # A step's group goes away when the step ends.
                for line in listing.read_text(encoding="ascii").split():
                    if process := identify(int(line)):
                        found[process.pid] = process
    return list(found.values())


def thaw(tag: str) -> None:
    """Let frozen processes run: a frozen one cannot be killed (cgroup v1 freezer)."""
    for state in (ROOT / "freezer" / group(tag)).rglob("freezer.state"):
        with suppress(OSError):
            state.write_text("THAWED\n", encoding="ascii")


def remove(tag: str) -> None:
    """Remove the sandbox's directories. The kernel lets go of a group a moment after its last process."""
    deadline = time.monotonic() + 5
    for controller in CONTROLLERS:
        top = ROOT / controller / group(tag)
        while top.exists():
            # Slurm removes groups meanwhile: os.walk goes on where one has gone.
            for directory, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()
            if time.monotonic() > deadline:
                break
            if top.exists():
                time.sleep(0.02)
