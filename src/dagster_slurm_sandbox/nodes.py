"""The nodes, as the controller sees them."""

from __future__ import annotations

from collections.abc import Collection

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import daemons
from dagster_slurm_sandbox.config import SandboxPaths
from dagster_slurm_sandbox.programs import run
from dagster_slurm_sandbox.state import State
from dagster_slurm_sandbox.waiting import wait_until

READY = frozenset({"idle", "mixed", "allocated", "completing", "planned", "reserved"})


def states(paths: SandboxPaths) -> dict[str, str]:
    """The nodes' states by name, such as `idle`, or `down*` for one that does not respond.

    Raises:
        SandboxError: The controller does not answer.
    """
    query = ["sinfo", "--noheader", "--Node", "--partition=compute", "--format=%N|%T"]
    # A request that comes while slurmctld starts can wait long for its answer: better ask anew.
    output = run(query, environment=_slurm(paths), timeout_seconds=3)
    return dict(line.strip().split("|", 1) for line in output.splitlines() if "|" in line)


def wait(paths: SandboxPaths, state: State, names: Collection[str]) -> None:
    """Wait until the controller has work for those nodes.

    A node that did not respond comes back when its slurmd registers, which it does when it starts, or when the
    controller next pings it (up to SlurmdTimeout/3 later); `scontrol reconfigure` makes all register now.

    Raises:
        SandboxError: A node does not come up in time.
    """
    asked = False

    def ready() -> bool:
        nonlocal asked
        found = _states_or_none(paths)
        if not all(daemons.answers(paths, state, name) for name in names):
            return False
        late = {name: found[name] for name in names if name in found and found[name] not in READY}
        if found and late and not asked:
            asked = True
            _bring_back(paths, late)
        return bool(found) and all(found.get(name) in READY for name in names)

    wait_until(ready, f"node {', '.join(names)}", timeout_seconds=90, log=paths.log(daemons.SLURMCTLD))


def _states_or_none(paths: SandboxPaths) -> dict[str, str]:
    try:
        return states(paths)
    except SandboxError:
        # The controller has just been started; that it stays away is told by the wait's time-out.
        return {}


def _bring_back(paths: SandboxPaths, late: dict[str, str]) -> None:
    run(["scontrol", "reconfigure"], environment=_slurm(paths))
    drained = [name for name, state in late.items() if "drain" in state]
    if drained:
        run(["scontrol", "update", f"nodename={','.join(drained)}", "state=resume"], environment=_slurm(paths))


def _slurm(paths: SandboxPaths) -> dict[str, str]:
    return {"SLURM_CONF": str(paths.slurm_conf)}
