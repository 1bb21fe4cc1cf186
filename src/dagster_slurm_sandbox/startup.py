"""Bringing a sandbox up, and back to where it should be."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dagster_slurm.errors import SandboxError
from dagster_slurm_sandbox import cgroups, daemons, database, files, network, processes, users
from dagster_slurm_sandbox.config import BASE_DIR_VARIABLE, MARKER_VARIABLE, SandboxConfig, SandboxPaths
from dagster_slurm_sandbox.programs import openssh_version, run
from dagster_slurm_sandbox.state import State, machine_locked, ports_of, save

# Below the range of ephemeral ports (32768 on), so that no outgoing connection sits on them.
_SSH_PORTS = range(22022, 22900)


class Progress:
    """Says on stderr what is being done, and after how many seconds."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._started = time.monotonic()

    def __call__(self, message: str) -> None:
        if not self._quiet:
            print(f"sandbox: {time.monotonic() - self._started:5.1f} s  {message}", file=sys.stderr, flush=True)


def make_room(config: SandboxConfig, paths: SandboxPaths) -> State:
    """Take subnet, ports and directories for a new sandbox, as no other that comes up at this moment takes them.

    Raises:
        SandboxError: A user cannot be called so, sshd would refuse every key below that base directory, or no subnet
            is free.
    """
    refuse_names(config.all_users)
    refuse_writable_parents(paths.state_dir)
    with machine_locked():
        make_directories(paths)
        state = plan_state(config, paths)
        # Ports are known to others by this file, the subnet by its route.
        save(paths, state)
        make_network(paths, state)
    return state


def refuse_names(users_of_it: Collection[str]) -> None:
    """Refuse names that useradd does not take, and those with capitals, which slurmdbd knows in lower case only.

    Raises:
        SandboxError: One is such.
    """
    for user in users_of_it:
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", user):
            raise SandboxError(
                f"{user!r} is not a name for a user of a sandbox",
                hint="Use up to 32 lower-case letters, digits, '-' and '_', beginning with a letter or '_'.",
            )


def refuse_writable_parents(state_dir: Path) -> None:
    """Refuse a place below which sshd takes no `authorized_keys`.

    Raises:
        SandboxError: Others than root may write a directory above it (sshd_config(5), StrictModes).
    """
    for directory in state_dir.parents:
        status = directory.stat() if directory.exists() else None
        if status is not None and (status.st_mode & 0o022 or status.st_uid != 0):
            raise SandboxError(
                f"A sandbox cannot lie in {state_dir.parent}: others than root may write {directory}, "
                "and sshd refuses every key below such a directory",
                hint=f"Set {BASE_DIR_VARIABLE} to a directory that root alone can write, or leave it unset.",
            )


def plan_state(config: SandboxConfig, paths: SandboxPaths) -> State:
    """Decide on addresses and ports, and whether memory can be enforced."""
    first, second = free_ports(2, but=reserved_ports(paths))
    reason = cgroups.why_not(paths.tag) if config.enforce_memory else "it was asked not to be"
    return State(
        config=config,
        subnet=network.choose_subnet(network.taken_subnets()),
        ssh_port=first,
        strict_ssh_port=second,
        login_name=socket.gethostname(),
        memory_reason=reason,
    )


def reserved_ports(paths: SandboxPaths) -> frozenset[int]:
    """Ports of the other sandboxes of this machine; the daemon behind one may be broken on purpose just now.

    Those of other base directories are known by their bridges.
    """
    others = {*paths.state_dir.parent.glob("*"), *network.state_dirs()} - {paths.state_dir}
    return frozenset(port for other in others for port in ports_of(SandboxPaths(other)))


def free_ports(count: int, *, but: Collection[int] = ()) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now, and that are not among those named."""
    found: list[int] = []
    for port in _SSH_PORTS:
        if port in but:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            break
    return found


def make_directories(paths: SandboxPaths) -> None:
    """Make the state directory and those in it; world-traversable, since homes and sockets are below."""
    for path in (paths.state_dir.parent, paths.state_dir):
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.chmod(0o755)
    world = ("etc", "munge", "ssh", "log", "run", "spool", "home", "environments", "pmix")
    private = ("secret", "database", "slurmctld")
    for name in (*world, *private):
        directory = paths.state_dir / name
        directory.mkdir(exist_ok=True)
        directory.chmod(0o700 if name in private else 0o755)


def raise_cluster(paths: SandboxPaths, state: State, progress: Progress) -> None:
    """Make and start whatever is missing; return when jobs can be run and people can log in.

    Raises:
        SandboxError: A part does not come up.
    """
    prepare(paths, state)
    daemon = daemons.all_daemons(paths, state)
    _together(
        lambda: _start(daemon[daemons.MUNGED], paths, state),
        lambda: _raise_database(daemon[daemons.MARIADB], paths, state),
        lambda: _raise_login(daemon, paths, state),
    )
    progress("munge, MariaDB and the login nodes serve")
    _start(daemon[daemons.SLURMDBD], paths, state)
    database.ensure_associations(paths, state)
    progress("slurmdbd serves, the account is known")
    _start(daemon[daemons.SLURMCTLD], paths, state)
    for node in state.config.node_names:
        daemons.ensure_started(daemon[f"slurmd:{node}"], paths, state)
    daemons.wait_for_nodes(paths, state, state.config.node_names)
    progress(f"slurmctld serves, nodes {', '.join(state.config.node_names)} are idle")


def log_in(paths: SandboxPaths, state: State) -> None:
    """Log in once, as its users do.

    Raises:
        SandboxError: It cannot be logged in to.
    """
    known = f'UserKnownHostsFile="{paths.known_hosts}"'
    options = ("BatchMode=yes", "IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "ControlPath=none", known)
    words = [word for option in (*options, "ConnectTimeout=30") for word in ("-o", option)]
    to = f"{state.config.user}@127.0.0.1"
    argv = ["ssh", "-F", "none", "-i", str(paths.client_key), "-p", str(state.ssh_port), *words, to, "true"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["ssh says nothing"]
        raise SandboxError(
            f"The sandbox is up, and {to} cannot log in: {said[-1]}",
            hint=f"{paths.log('sshd')} has sshd's side of it; a user that was there before may have no shell.",
        )


def prepare(paths: SandboxPaths, state: State) -> None:
    """Make everything that is not a daemon: network, mounts, groups, files."""
    make_network(paths, state)
    share_homes(paths)
    if state.cgroups:
        cgroups.ensure(paths.tag, state.config.node_names)
    write_files(paths, state)


def make_network(paths: SandboxPaths, state: State) -> None:
    """Make what is missing of the network."""
    if not network.NETNS_DIR.exists():
        note_made(paths, network.NETNS_DIR)
    network.ensure(state.plan(paths), paths.state_dir)


def share_homes(paths: SandboxPaths) -> None:
    """Make the homes a mount point of their own that passes on mounts below it to the nodes."""
    if str(paths.homes) not in mount_points():
        run(["mount", "--bind", str(paths.homes), str(paths.homes)])
        run(["mount", "--make-shared", str(paths.homes)])


def mount_points() -> list[str]:
    """All of this machine's mount points, also of a directory onto itself, which `Path.is_mount` does not see.

    Source: proc_pid_mountinfo(5); the fifth field is the mount point, with blanks and backslashes in octal.
    """
    fields = [line.split()[4] for line in Path("/proc/self/mountinfo").read_bytes().splitlines()]
    return [os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), field)) for field in fields]


def write_files(paths: SandboxPaths, state: State) -> None:
    """Write munge key and the configuration of Slurm."""
    plan = state.plan(paths)
    if not paths.munge_key.exists():
        temporary = paths.munge_key.with_suffix(".new")
        temporary.write_bytes(os.urandom(128))
        temporary.chmod(0o400)
        temporary.replace(paths.munge_key)
    existing = Path("/etc/hosts").read_text(encoding="utf-8") if Path("/etc/hosts").exists() else ""
    (paths.hosts_file).write_text(files.hosts(plan, state.login_name, existing), encoding="utf-8")
    (paths.resolv_conf).write_text(files.RESOLV_CONF, encoding="utf-8")
    conf = files.slurm_conf(state.config, paths, plan, cgroups=state.cgroups)
    paths.slurm_conf.write_text(conf, encoding="utf-8")
    (paths.etc / "cgroup.conf").write_text(files.cgroup_conf(cgroups=state.cgroups), encoding="utf-8")
    (paths.etc / "gres.conf").write_text(files.gres_conf(state.config), encoding="utf-8")
    (paths.etc / "mpi.conf").write_text(files.mpi_conf(paths), encoding="utf-8")
    dbd = paths.etc / "slurmdbd.conf"
    users.write_private(dbd, files.slurmdbd_conf(paths, plan))


def _raise_database(daemon: daemons.Daemon, paths: SandboxPaths, state: State) -> None:
    if not daemons.is_running(state, daemon.name):
        database.ensure_data(paths)
    _start(daemon, paths, state)
    database.ensure_database(paths)


def _raise_login(daemon: dict[str, daemons.Daemon], paths: SandboxPaths, state: State) -> None:
    users.ensure(paths, state)
    host_key = users.ensure_keys(paths)
    ensure_run_sshd(paths)
    ports = (state.ssh_port, state.strict_ssh_port)
    paths.known_hosts.write_text(files.known_hosts(ports, host_key), encoding="ascii")
    for site in daemons.sites(state):
        text = files.sshd_config(site, paths, state.config.all_users, openssh=openssh_version())
        (paths.ssh / f"{site.name}.conf").write_text(text, encoding="utf-8")
        _start(daemon[site.name], paths, state)


def ensure_run_sshd(paths: SandboxPaths) -> None:
    """Make sshd's privilege separation directory, which Debian's unit would make."""
    directory = Path("/run/sshd")
    if not directory.exists():
        note_made(paths, directory)
        directory.mkdir(mode=0o755, exist_ok=True)


def _start(daemon: daemons.Daemon, paths: SandboxPaths, state: State) -> None:
    daemons.ensure_started(daemon, paths, state)
    daemons.wait_ready(daemon, paths, state)


def _together(*actions: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(actions)) as pool:
        for future in [pool.submit(action) for action in actions]:
            future.result()


def note_made(paths: SandboxPaths, directory: Path) -> None:
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
            while str(directory) in mount_points():
                run(["umount", str(directory)])
            directory.rmdir()
    paths.made_file.unlink(missing_ok=True)
