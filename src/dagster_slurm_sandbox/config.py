"""What a sandbox is to look like, and where its files lie."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dagster_slurm.errors import SandboxError

DEFAULT_NAME = "default"
DEFAULT_USER = "researcher"
DEFAULT_BASE_DIR = Path("/var/lib/dagster-slurm-sandbox")
BASE_DIR_VARIABLE = "DAGSTER_SLURM_SANDBOX_DIR"

# Every daemon carries this variable, with the state directory as its value: it tells a sandbox's own processes
# from any other on the machine, also when the process that started them was killed before it noted their ids.
MARKER_VARIABLE = "DAGSTER_SLURM_SANDBOX_STATE"

CONTROL = "ctl"
# sun_path holds 108 bytes (unix(7)); the longest socket below the state directory takes 24 of them.
LONGEST_STATE_DIR = 80


@dataclass(frozen=True)
class SandboxConfig:
    """What a sandbox cluster is to look like.

    Args:
        name: Its name; sandboxes of different names stand side by side.
        nodes: Number of compute nodes; they are called `n1`, `n2` ...
        cpus_per_node: CPUs a node declares, whatever the machine has.
        memory_mib_per_node: Memory a node declares, in MiB, whatever the machine has.
        gpus_per_node: GPUs a node declares. Slurm counts and numbers them; behind them is no device that computes.
        user: The Unix user to log in as; made if there is none, and then removed by `down`.
        users: Further users, who can do what that one can; made and removed alike.
        account: The account jobs are charged to.
        min_job_age_seconds: How long the controller remembers an ended job (`MinJobAge`).
        kill_wait_seconds: Pause between SIGTERM and SIGKILL (`KillWait`).
        message_timeout_seconds: How long Slurm's commands try to reach a controller that is away (`MessageTimeout`).
        credential_seconds: How long a job's credential holds, and so a requeued job waits (`AuthInfo`, `cred_expire`).
        slurmd_timeout_seconds: After how long without an answer a node is down (`SlurmdTimeout`).
        debug_max_minutes: `MaxTime` of the partition `debug`.
        enforce_memory: Whether to hold jobs to their `--mem` where cgroups allow it.
        slurm_options: Further lines of slurm.conf, by key; they win over the sandbox's own.
    """

    name: str = DEFAULT_NAME
    nodes: int = 3
    cpus_per_node: int = 8
    memory_mib_per_node: int = 16000
    gpus_per_node: int = 0
    user: str = DEFAULT_USER
    users: tuple[str, ...] = ()
    account: str = "research"
    min_job_age_seconds: int = 300
    kill_wait_seconds: int = 30
    message_timeout_seconds: int = 10
    credential_seconds: int = 120
    slurmd_timeout_seconds: int = 30
    debug_max_minutes: int = 5
    enforce_memory: bool = True
    slurm_options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "users", tuple(self.users))
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", self.name):
            raise SandboxError(
                f"{self.name!r} is not a name for a sandbox",
                hint="Use up to 32 letters, digits, '-' and '_', beginning with a letter or digit.",
            )
        if not 1 <= self.nodes <= 32:
            raise SandboxError(f"A sandbox has 1 to 32 nodes, not {self.nodes}", hint="Ask for fewer nodes.")

    @property
    def all_users(self) -> tuple[str, ...]:
        """All who can log in and submit."""
        return (self.user, *self.users)

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of the compute nodes."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))


@dataclass(frozen=True)
class SandboxPaths:
    """Where a sandbox's files lie. Everything is below `state_dir`."""

    state_dir: Path

    @property
    def tag(self) -> str:
        """Eight hex digits that stand for this sandbox in names of interfaces, namespaces and cgroups."""
        return f"{zlib.crc32(str(self.state_dir).encode()):08x}"

    @property
    def lock_file(self) -> Path:
        """The lock that `up`, `down`, `break` and `mend` hold; beside the state directory, which goes away."""
        return self.state_dir.parent / f".{self.state_dir.name}.lock"

    @property
    def made_file(self) -> Path:
        """Names directories outside of it that a sandbox made, and that go with the last sandbox."""
        return self.state_dir.parent / ".made"

    @property
    def state_file(self) -> Path:
        """What was started and made, as JSON."""
        return self.state_dir / "state.json"

    @property
    def etc(self) -> Path:
        """Slurm's configuration directory."""
        return self.state_dir / "etc"

    @property
    def slurm_conf(self) -> Path:
        """The cluster's slurm.conf."""
        return self.etc / "slurm.conf"

    @property
    def pmix(self) -> Path:
        """Where PMIx makes its directories; each node has its own there."""
        return self.state_dir / "pmix"

    @property
    def hosts_file(self) -> Path:
        """The /etc/hosts that login node and compute nodes see."""
        return self.state_dir / "hosts"

    @property
    def resolv_conf(self) -> Path:
        """The /etc/resolv.conf that compute nodes see."""
        return self.state_dir / "resolv.conf"

    @property
    def munge_socket(self) -> Path:
        """The socket of the sandbox's own munged."""
        return self.state_dir / "munge" / "socket"

    @property
    def munge_dir(self) -> Path:
        """Socket, log and pid file of munged."""
        return self.state_dir / "munge"

    @property
    def munge_key(self) -> Path:
        """The sandbox's own munge key."""
        return self.state_dir / "secret" / "munge.key"

    @property
    def database_dir(self) -> Path:
        """MariaDB's data directory."""
        return self.state_dir / "database" / "data"

    @property
    def database_temporary_dir(self) -> Path:
        """MariaDB's temporary tables. A server that starts removes those it finds, also another's (10.5, tried)."""
        return self.state_dir / "database" / "tmp"

    @property
    def database_socket(self) -> Path:
        """MariaDB's socket."""
        return self.state_dir / "database" / "socket"

    @property
    def logs(self) -> Path:
        """The daemons' logs."""
        return self.state_dir / "log"

    @property
    def ssh(self) -> Path:
        """Host key, sshd's configurations and authorised keys."""
        return self.state_dir / "ssh"

    @property
    def client_key(self) -> Path:
        """The private key that logs in as the user."""
        return self.ssh / "client_key"

    @property
    def known_hosts(self) -> Path:
        """The known_hosts file for clients."""
        return self.ssh / "known_hosts"

    @property
    def password_file(self) -> Path:
        """The user's password, if the user was made by the sandbox."""
        return self.state_dir / "secret" / "password"

    @property
    def homes(self) -> Path:
        """The directory of home directories; a mount point, shared with the nodes."""
        return self.state_dir / "home"

    @property
    def environments(self) -> Path:
        """Python environments made for the cluster's user."""
        return self.state_dir / "environments"

    def log(self, name: str) -> Path:
        """The log of one daemon."""
        return self.logs / f"{name}.log"


def base_dir() -> Path:
    """Where the sandboxes of this machine lie: `$DAGSTER_SLURM_SANDBOX_DIR`, or below /var/lib."""
    return Path(os.environ.get(BASE_DIR_VARIABLE) or DEFAULT_BASE_DIR).resolve()


def paths_of(name: str) -> SandboxPaths:
    """The paths of the sandbox of that name.

    Raises:
        SandboxError: The base directory's path is too long to hold Unix sockets.
    """
    state_dir = base_dir() / name
    if len(str(state_dir)) > LONGEST_STATE_DIR:
        raise SandboxError(
            f"The path {state_dir} is too long to hold Unix sockets",
            hint=f"Set {BASE_DIR_VARIABLE} to a shorter path.",
        )
    return SandboxPaths(state_dir)
