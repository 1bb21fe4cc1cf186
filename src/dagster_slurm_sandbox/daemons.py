"""The daemons of the cluster: how each is started, and how to tell that it serves."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import cgroups, processes
from dagster_slurm_sandbox.config import CONTROL, MARKER_VARIABLE, SandboxPaths
from dagster_slurm_sandbox.files import SLURMD_PORT, SLURMDBD_PORT, SshdSite
from dagster_slurm_sandbox.programs import (
    accepts_connections,
    find,
    run,
    sends_banner,
    slurm_version,
    system_environment,
    wait_until,
)
from dagster_slurm_sandbox.state import State, note

MUNGED = "munged"
MARIADB = "mariadb"
SLURMDBD = "slurmdbd"
SLURMCTLD = "slurmctld"
SSHD = "sshd"
STRICT_SSHD = "strict-sshd"
_LAST_TO_START_WITHOUT_STATE = (24, 11)
# By it a daemon is found on this machine, where it has another id than on its node.
_SIGN_VARIABLE = "DAGSTER_SLURM_SANDBOX_SIGN"
_ENTER = Path(__file__).with_name("enter.sh")


@dataclass(frozen=True)
class Daemon:
    """One daemon.

    Args:
        name: Its name in the state; `slurmd:n1` for a node's.
        argv: The command that runs it in the foreground.
        log: Where it says what it does.
        ready: Looks once whether it serves.
        host: The host of the cluster it runs on; empty for the login node, which is this machine.
        environment: Variables it needs.
    """

    name: str
    argv: Sequence[str]
    log: Path
    ready: Callable[[], bool]
    host: str = CONTROL
    environment: Mapping[str, str] = field(default_factory=dict)


def succeeds(argv: Sequence[str], paths: SandboxPaths) -> bool:
    """Whether a Slurm command ends with status 0 within some seconds."""
    try:
        run(argv, environment={"SLURM_CONF": str(paths.slurm_conf)}, timeout_seconds=2)
    except SandboxError:
        return False
    return True


def munged(paths: SandboxPaths) -> Daemon:
    """The sandbox's own munged."""
    log = paths.munge_dir / "munged.log"
    options = {
        "socket": paths.munge_socket,
        "key-file": paths.munge_key,
        "pid-file": paths.munge_dir / "munged.pid",
        "log-file": log,
        "seed-file": paths.munge_dir / "munged.seed",
    }
    argv = [path_of("munged"), "--foreground", *(f"--{name}={value}" for name, value in options.items())]
    credential = ["munge", "--no-input", f"--socket={paths.munge_socket}"]
    return Daemon(MUNGED, argv, log, lambda: paths.munge_socket.is_socket() and succeeds(credential, paths))


def mariadb(paths: SandboxPaths) -> Daemon:
    """MariaDB on a socket only; its data is thrown away with the sandbox, so nothing is synced to disk."""
    log = paths.log(MARIADB)
    argv = [
        path_of("mariadbd"),
        *database_options(paths),
        f"--socket={paths.database_socket}",
        f"--pid-file={paths.state_dir / 'run' / 'mariadb.pid'}",
        "--skip-networking",
        "--skip-log-bin",
        "--innodb-lock-wait-timeout=900",
        # slurmdbd ends where it is on, which is the default from MariaDB 11.6.2 on (so slurmdbd 26.05.5 says); older
        # releases do not know it.
        "--loose-innodb-snapshot-isolation=OFF",
    ]
    ping = ["mariadb-admin", "--no-defaults", f"--socket={paths.database_socket}", "ping"]
    return Daemon(MARIADB, argv, log, lambda: paths.database_socket.is_socket() and succeeds(ping, paths))


def database_options(paths: SandboxPaths) -> list[str]:
    """Options that the database's making and its running have in common."""
    return [
        "--no-defaults",
        "--user=root",
        f"--datadir={paths.database_dir}",
        f"--tmpdir={paths.database_temporary_dir}",
        "--innodb-log-file-size=8M",
        "--innodb-buffer-pool-size=64M",
        "--innodb-flush-log-at-trx-commit=0",
        "--debug-no-sync",
    ]


def slurmdbd(paths: SandboxPaths, state: State) -> Daemon:
    """The accounting daemon. It listens only when the database's tables are made."""
    address = state.plan(paths).address(CONTROL)
    environment = {"SLURM_CONF": str(paths.slurm_conf), "MYSQL_UNIX_PORT": str(paths.database_socket)}
    return Daemon(
        SLURMDBD,
        [path_of("slurmdbd"), "-D"],
        paths.log(SLURMDBD),
        lambda: accepts_connections(address, SLURMDBD_PORT),
        environment=environment,
    )


def slurmctld(paths: SandboxPaths) -> Daemon:
    """The controller.

    Killed before its first save, it does not start again in 26.05.5 ("No Assoc usage file to recover"), unless it is
    told to ignore that state is missing; 20.11.4, 22.05.8 and 24.11.5 do (tried).
    """
    ignoring = ["-i"] if slurm_version() > _LAST_TO_START_WITHOUT_STATE else []
    return Daemon(
        SLURMCTLD,
        [path_of("slurmctld"), "-D", *ignoring],
        paths.log(SLURMCTLD),
        lambda: succeeds(["scontrol", "ping"], paths),
        environment={"SLURM_CONF": str(paths.slurm_conf)},
    )


def slurmd(paths: SandboxPaths, node: str) -> Daemon:
    """A node's daemon. That it serves is seen by the controller; see `nodes.wait`."""
    return Daemon(
        f"slurmd:{node}",
        [path_of("slurmd"), "-D"],
        paths.logs / f"slurmd-{node}.log",
        lambda: True,
        host=node,
        environment={"SLURM_CONF": str(paths.slurm_conf)},
    )


def answers(paths: SandboxPaths, state: State, node: str) -> bool:
    """Whether a node's slurmd can be reached over the network."""
    return accepts_connections(state.plan(paths).address(node), SLURMD_PORT)


def sshd(paths: SandboxPaths, site: SshdSite) -> Daemon:
    """A login node's daemon."""
    log = paths.log(site.name)
    argv = [path_of("sshd"), "-D", "-f", str(paths.ssh / f"{site.name}.conf"), "-E", str(log)]
    return Daemon(site.name, argv, log, lambda: sends_banner("127.0.0.1", site.port), host="")


def sites(state: State) -> tuple[SshdSite, SshdSite]:
    """The two login nodes."""
    return (
        SshdSite(SSHD, state.ssh_port, strict=False),
        SshdSite(STRICT_SSHD, state.strict_ssh_port, strict=True),
    )


def all_daemons(paths: SandboxPaths, state: State) -> dict[str, Daemon]:
    """All daemons of the cluster, by name, in the order in which they need each other."""
    daemons = [
        munged(paths),
        mariadb(paths),
        slurmdbd(paths, state),
        slurmctld(paths),
        *(slurmd(paths, node) for node in state.config.node_names),
        *(sshd(paths, site) for site in sites(state)),
    ]
    return {daemon.name: daemon for daemon in daemons}


def is_running(state: State, name: str) -> bool:
    """Whether the daemon we started is there."""
    process = state.processes.get(name)
    return process is not None and processes.is_alive(process)


def ensure_started(daemon: Daemon, paths: SandboxPaths, state: State) -> None:
    """Start a daemon unless it runs."""
    if daemon.host in state.config.node_names:
        _ensure_power(daemon.host, paths, state)
    if is_running(state, daemon.name):
        return
    if daemon.host in state.config.node_names:
        _start_on_node(daemon, paths, state)
    else:
        _start(daemon.name, [*_entering(daemon.host, paths, state), *daemon.argv], daemon.environment, paths, state)


def _start(name: str, argv: Sequence[str], variables: Mapping[str, str], paths: SandboxPaths, state: State) -> None:
    processes.start(
        argv,
        log=_out(name, paths),
        environment={**variables, MARKER_VARIABLE: str(paths.state_dir)},
        on_start=lambda started: note(paths, state, name, started),
    )


def _entering(host: str, paths: SandboxPaths, state: State, cgroup: str = "-") -> list[str]:
    netns = state.plan(paths).netns_path(host) if host else Path("/proc/self/ns/net")
    return ["/bin/sh", str(_ENTER), str(netns), host or "-", str(paths.state_dir), cgroup]


def _ensure_power(node: str, paths: SandboxPaths, state: State) -> None:
    """Start a node's first process: with it all others of the node end; with slurmd alone, jobs go on."""
    name = f"power:{node}"
    if is_running(state, name):
        return
    is_up = paths.state_dir / "run" / f"up-{node}"
    is_up.unlink(missing_ok=True)
    cgroup = f"{cgroups.group(paths.tag)}/{node}" if state.cgroups else "-"
    _start(name, [*_entering(node, paths, state, cgroup), "-"], {}, paths, state)
    wait_until(is_up.exists, f"the node {node}", log=_out(name, paths), broken=lambda: not is_running(state, name))


def _start_on_node(daemon: Daemon, paths: SandboxPaths, state: State) -> None:
    """Start a daemon as a child of its node's first process: a parent outside of the node could keep it from ending."""
    # What was started for it waits for it, and has no other child.
    first, *_ = processes.descendants(state.processes[f"power:{daemon.host}"])
    # With the root: `make slurm-versions` has one of its own, which a mount namespace alone would leave.
    namespaces = ("--pid", "--mount", "--root", "--uts", "--net", "--cgroup")
    # In the node these are its own groups.
    groups = [f"{cgroups.ROOT / each / 'cgroup.procs'}" for each in (cgroups.CONTROLLERS if state.cgroups else ())]
    script = "".join(f"echo 0 >{group} && " for group in groups) + 'exec setsid "$@" &'
    sign = secrets.token_hex(8)
    environment = {**daemon.environment, MARKER_VARIABLE: str(paths.state_dir), _SIGN_VARIABLE: sign}
    with _out(daemon.name, paths).open("ab") as output:
        subprocess.run(
            ["nsenter", f"--target={first.pid}", *namespaces, "/bin/sh", "-c", script, "sh", *daemon.argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=system_environment(environment),
            cwd="/",
            check=True,
        )
    note(paths, state, daemon.name, processes.found_by(_SIGN_VARIABLE, sign))


def _out(name: str, paths: SandboxPaths) -> Path:
    return paths.logs / f"{name.replace(':', '-')}.out"


def wait_ready(daemon: Daemon, paths: SandboxPaths, state: State) -> None:
    """Wait until a daemon serves.

    Raises:
        SandboxError: It ended, or does not serve in time; with the end of its log.
    """
    out = _out(daemon.name, paths)
    log = daemon.log if daemon.log.exists() and daemon.log.stat().st_size else out
    wait_until(daemon.ready, daemon.name, log=log, broken=lambda: not is_running(state, daemon.name))


def path_of(program: str) -> str:
    """Where a program is.

    Raises:
        SandboxError: It is missing.
    """
    path = find(program)
    if path is None:
        raise SandboxError(f"The program {program} is missing", hint="Run `dagster-slurm sandbox up --install`.")
    return path


READY = frozenset({"idle", "mixed", "allocated", "completing", "planned", "reserved"})


def node_states(paths: SandboxPaths) -> dict[str, str]:
    """The nodes' states by name, such as `idle`, or `down*` for one that does not respond.

    Raises:
        SandboxError: The controller does not answer.
    """
    query = ["sinfo", "--noheader", "--Node", "--partition=compute", "--format=%N|%T"]
    # A request that comes while slurmctld starts can wait long for its answer: better ask anew.
    output = run(query, environment=_slurm(paths), timeout_seconds=3)
    return dict(line.strip().split("|", 1) for line in output.splitlines() if "|" in line)


def wait_for_nodes(paths: SandboxPaths, state: State, names: Collection[str]) -> None:
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
        if not all(answers(paths, state, name) for name in names):
            return False
        late = {name: found[name] for name in names if name in found and found[name] not in READY}
        if found and late and not asked:
            asked = True
            _bring_back(paths, late)
        return bool(found) and all(found.get(name) in READY for name in names)

    wait_until(ready, f"node {', '.join(names)}", timeout_seconds=90, log=paths.log(SLURMCTLD))


def _states_or_none(paths: SandboxPaths) -> dict[str, str]:
    try:
        return node_states(paths)
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
