"""Breaking parts of the cluster on purpose, and mending them."""

from __future__ import annotations

import signal

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import cgroups, daemons, network, processes, startup
from dagster_slurm_sandbox.config import SandboxConfig, SandboxPaths
from dagster_slurm_sandbox.processes import Process
from dagster_slurm_sandbox.programs import wait_until
from dagster_slurm_sandbox.state import State

_SERVICES = (
    daemons.SSHD,
    daemons.STRICT_SSHD,
    daemons.SLURMCTLD,
    daemons.SLURMDBD,
    daemons.MARIADB,
    daemons.MUNGED,
)


def parts(config: SandboxConfig) -> tuple[str, ...]:
    """What can be broken."""
    of_nodes = (f"{kind}:{node}" for kind in ("slurmd", "node", "network") for node in config.node_names)
    return (*_SERVICES, *of_nodes)


def check_part(config: SandboxConfig, part: str) -> None:
    """Refuse a part that there is not.

    Raises:
        SandboxError: There is none of that name.
    """
    if part not in parts(config):
        raise SandboxError(f"There is no part {part!r}", hint=f"The parts are: {', '.join(parts(config))}.")


def condition(state: State, name: str) -> str:
    """How a daemon is: `running`, `stopped` or `dead`."""
    process = state.processes.get(name)
    if process is None or not processes.is_alive(process):
        return "dead"
    return "stopped" if processes.is_stopped(process) else "running"


def break_part(paths: SandboxPaths, state: State, part: str, *, hang: bool) -> None:
    """Break a part.

    Raises:
        SandboxError: There is no such part, or it cannot hang.
    """
    check_part(state.config, part)
    kind, _, node = part.partition(":")
    if kind == "network":
        if hang:
            raise SandboxError("A network cannot hang", hint="Break it without `hang`.")
        network.set_cable(state.plan(paths), node, up=False)
        return
    affected = _affected(paths, state, part)
    if hang:
        _stop(affected)
    else:
        processes.end(affected)


def _stop(affected: list[Process]) -> None:
    for process in affected:
        processes.send(process, signal.SIGSTOP)
    wait_until(
        lambda: all(processes.is_stopped(each) or not processes.is_alive(each) for each in affected),
        "the stopping of processes",
        timeout_seconds=5,
    )


def _affected(paths: SandboxPaths, state: State, part: str) -> list[Process]:
    kind, _, node = part.partition(":")
    process = state.processes.get(f"slurmd:{node}" if kind == "node" else part)
    found = [process] if process is not None and processes.is_alive(process) else []
    if part in {daemons.SSHD, daemons.STRICT_SSHD, daemons.SLURMCTLD}:
        # The sessions sshd serves; slurmctld's helper slurmscriptd.
        found += [child for each in found for child in processes.descendants(each)]
    if kind == "node":
        found = _on_node(paths, state, node)
    return found


def _on_node(paths: SandboxPaths, state: State, node: str) -> list[Process]:
    path = state.plan(paths).netns_path(node)
    inodes = frozenset({path.stat().st_ino})
    inside = processes.matching(lambda directory: processes.in_network_namespace(directory, inodes))
    found = {each.pid: each for each in [*inside, *cgroups.processes(paths.tag, node)]}
    return list(found.values())


def mend_part(paths: SandboxPaths, state: State, part: str) -> None:
    """Mend a part and return when it serves.

    Raises:
        SandboxError: There is no such part, or it does not come back.
    """
    if part == "all":
        mend_everything(paths, state)
        startup.raise_cluster(paths, state, startup.Progress(quiet=True))
        return
    check_part(state.config, part)
    kind, _, node = part.partition(":")
    if kind == "network":
        network.set_cable(state.plan(paths), node, up=True)
    else:
        _continue(_affected(paths, state, part))
    if node:
        name = f"slurmd:{node}"
        daemons.ensure_started(daemons.all_daemons(paths, state)[name], paths, state)
        daemons.wait_for_nodes(paths, state, [node])
    else:
        _restart(paths, state, part)


def _restart(paths: SandboxPaths, state: State, part: str) -> None:
    if part in {daemons.SSHD, daemons.STRICT_SSHD}:
        startup.ensure_run_sshd(paths)
    daemon = daemons.all_daemons(paths, state)[part]
    daemons.ensure_started(daemon, paths, state)
    daemons.wait_ready(daemon, paths, state)
    if part in {daemons.SLURMCTLD, daemons.MUNGED}:
        daemons.wait_for_nodes(paths, state, _reachable(paths, state))
    if part in {daemons.SLURMDBD, daemons.MARIADB}:
        wait_accounting(paths)


def wait_accounting(paths: SandboxPaths) -> None:
    """Wait until the accounting answers.

    Raises:
        SandboxError: It does not.
    """
    query = ["sacct", "--allocations", "--noheader"]
    wait_until(lambda: daemons.succeeds(query, paths), "the accounting", log=paths.log(daemons.SLURMDBD))


def _reachable(paths: SandboxPaths, state: State) -> list[str]:
    plan = state.plan(paths)
    return [
        node
        for node in state.config.node_names
        if condition(state, f"slurmd:{node}") == "running" and network.cable_is_up(plan, node)
    ]


def _continue(stopped: list[Process]) -> None:
    for process in stopped:
        processes.send(process, signal.SIGCONT)


def mend_everything(paths: SandboxPaths, state: State) -> None:
    """Let everything go on that was stopped, and plug in every cable."""
    plan = state.plan(paths)
    for name, process in state.processes.items():
        if processes.is_alive(process):
            _continue(_affected(paths, state, name))
    for node in state.config.node_names:
        if plan.netns_path(node).exists():
            _continue(_on_node(paths, state, node))
            if not network.cable_is_up(plan, node):
                network.set_cable(plan, node, up=True)
