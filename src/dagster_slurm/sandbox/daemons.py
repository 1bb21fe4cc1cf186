"""The daemons of the cluster: how each is started, and how to tell that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm.sandbox import cgroups, processes
from dagster_slurm.sandbox.config import CONTROL, MARKER_VARIABLE, SandboxPaths
from dagster_slurm.sandbox.files import SLURMD_PORT, SLURMDBD_PORT, SshdSite
from dagster_slurm.sandbox.programs import find, run, slurm_version
from dagster_slurm.sandbox.state import State, note
from dagster_slurm.sandbox.waiting import accepts_connections, sends_banner, wait_until

MUNGED = "munged"
MARIADB = "mariadb"
SLURMDBD = "slurmdbd"
SLURMCTLD = "slurmctld"
SSHD = "sshd"
STRICT_SSHD = "strict-sshd"
_LAST_TO_START_WITHOUT_STATE = (24, 11)
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
    """Start a daemon unless it runs; let it go on if it was stopped."""
    process = state.processes.get(daemon.name)
    if process is not None and processes.is_alive(process):
        return
    argv = [*_entering(daemon, paths, state), *daemon.argv]
    processes.start(
        argv,
        log=paths.logs / f"{daemon.name.replace(':', '-')}.out",
        environment={**daemon.environment, MARKER_VARIABLE: str(paths.state_dir)},
        on_start=lambda started: note(paths, state, daemon.name, started),
    )


def _entering(daemon: Daemon, paths: SandboxPaths, state: State) -> list[str]:
    plan = state.plan(paths)
    netns = plan.netns_path(daemon.host) if daemon.host else Path("/proc/self/ns/net")
    on_node = daemon.host in state.config.node_names and state.cgroups
    cgroup = f"{cgroups.group(paths.tag)}/{daemon.host}" if on_node else "-"
    return [
        "/bin/sh",
        str(_ENTER),
        str(netns),
        daemon.host or "-",
        str(paths.state_dir),
        cgroup,
    ]


def wait_ready(daemon: Daemon, paths: SandboxPaths, state: State) -> None:
    """Wait until a daemon serves.

    Raises:
        SandboxError: It ended, or does not serve in time; with the end of its log.
    """
    out = paths.logs / f"{daemon.name.replace(':', '-')}.out"
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
