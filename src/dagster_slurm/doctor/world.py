"""What is checked: the settings that a code location would read; and what the checks share: one connection."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.placement import placed
from dagster_slurm.cluster.slurm_cluster import resolved
from dagster_slurm.doctor.finding import Finding, fine, wrong
from dagster_slurm.errors import TransportError
from dagster_slurm.slurm.request import AUTO, JobRequest, merge
from dagster_slurm.transport import CompletedCommand, LocalTransport, OpenSSHTransport, SSHConnection, Transport
from dagster_slurm.transport.openssh import ControlMaster
from dagster_slurm.transport.shell import verb
from dagster_slurm.variables import DEFAULT_REMOTE_BASE, PROFILE_VARIABLE, text_in

if TYPE_CHECKING:
    from dagster_slurm.resources.slurm import SlurmResource

STEP = "settings"


@dataclass(frozen=True)
class Asked:
    """What the command line says.

    Args:
        prefix: What the environment variables of the login node begin with.
        local: Run Slurm's commands on this machine.
        remote_base: In place of SLURM_REMOTE_BASE.
        options: Options of sbatch, in place of those of the environment variables.
        env_path: The environment on the cluster.
        fresh_login: Log in anew instead of using a shared connection that is open.
        job: Submit a small job.
        job_patience_seconds: How long that job may take.
    """

    prefix: str = "SLURM_EDGE_NODE_"
    local: bool = False
    remote_base: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    env_path: str | None = None
    fresh_login: bool = False
    job: bool = False
    job_patience_seconds: float = 300.0


@dataclass(frozen=True)
class Settings:
    """What is checked.

    Args:
        connection: The way to the login node; None for this machine.
        request: What is asked of Slurm for a job.
        remote_base: Directory for the runs, `~` for the home directory.
    """

    connection: SSHConnection | None
    request: JobRequest
    remote_base: str


def read_settings(asked: Asked) -> Settings:
    """Read the settings as `SlurmResource.from_env` does.

    Raises:
        ConfigurationError: One is missing or cannot be read.
        InvalidRequestError: One cannot be asked of Slurm.
    """
    # Imported late: these know Dagster, and `--help` should not wait for it.
    from dagster_slurm.resources.slurm import SlurmResource, SSHConnectionResource  # noqa: PLC0415

    has_way = asked.local or (text_in(PROFILE_VARIABLE) is not None and text_in(f"{asked.prefix}HOST") is None)
    ssh = None if has_way else SSHConnectionResource.from_env(asked.prefix)
    slurm = SlurmResource.from_env_slurm(ssh)
    options = slurm.default_options()
    return _settings(slurm.with_profile(), options, asked)


def _settings(slurm: SlurmResource, options: Mapping[str, object], asked: Asked) -> Settings:
    return Settings(
        connection=slurm.ssh.connection() if slurm.ssh and not asked.local else None,
        request=merge(options, asked.options),
        remote_base=asked.remote_base or slurm.remote_base or DEFAULT_REMOTE_BASE,
    )


def judge_settings(settings: Settings) -> Finding:
    """What will be used; wrong if a file that it names is not there or not usable."""
    connection = settings.connection
    if connection is None:
        return fine(STEP, f"Slurm's commands on this machine, runs in {settings.remote_base}")
    if shutil.which("ssh") is None:
        return wrong(STEP, "The program `ssh` is not installed", "Install OpenSSH's client.")
    for hop in connection.hops():
        problem = _key_problem(hop.key_path)
        if problem:
            return wrong(STEP, *problem)
    way = " through ".join(hop.label for hop in connection.hops())
    return fine(STEP, f"{way}, runs in {settings.remote_base}")


def _key_problem(key_path: str | None) -> tuple[str, str] | None:
    if key_path is None:
        return None
    path = Path(key_path).expanduser()
    if not path.is_file():
        return f"The key file {path} does not exist", "Correct the KEY_PATH, or make a key with `ssh-keygen`."
    if path.stat().st_mode & 0o077:
        return f"The key file {path} can be read by others, and ssh ignores it", f"Run `chmod 600 {path}`."
    return None


Facts = dict[str, list[str]]
"""What a shell file printed as "name value" lines: name to values, in order."""


def read_facts(text: str) -> Facts:
    """Take apart "name value" lines."""
    facts: Facts = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        facts.setdefault(name, []).append(value)
    return facts


class World:
    """The set-up that is checked. Nothing is read or connected before a check asks for it.

    Args:
        asked: What the command line says.
        read: Reads the settings.
        transport: Used in place of one made from the settings.
        clock: This machine's clock, in seconds since the epoch.

    Attributes:
        job_output: What the payload of the small job has printed; empty before, and without one.
    """

    def __init__(
        self,
        asked: Asked,
        *,
        read: Callable[[Asked], Settings] = read_settings,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.asked = asked
        self.clock = clock
        self.logins = 0
        self.was_open = False
        self.job_output = ""
        self._read = read
        self._transport = transport
        self._own_directory: str | None = None
        self._refusal: TransportError | None = None

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once."""
        return self._read(self.asked)

    @cached_property
    def connection(self) -> SSHConnection | None:
        """The way to the login node; None for this machine."""
        connection = self.settings.connection
        if connection is None or not self.asked.fresh_login:
            return connection
        self._own_directory = tempfile.mkdtemp(prefix="dagster-slurm-")
        return replace(connection, control_dir=self._own_directory)

    @property
    def host(self) -> str | None:
        """The other end, if a connection was tried."""
        return self._transport.host if self._transport is not None else None

    @property
    def transport(self) -> Transport:
        """The one way in that all checks share."""
        if self._transport is None:
            connection = self.connection
            self._transport = OpenSSHTransport(connection, channels=1) if connection else LocalTransport(channels=1)
        return self._transport

    @cached_property
    def _account(self) -> Facts:
        connection = self.connection
        if connection is not None:
            self.was_open = ControlMaster(connection).is_alive()
            self.logins = 0 if self.was_open else 1
        return self.gather("login")

    def log_in(self) -> Facts:
        """Log in and say who we are there; a refusal is remembered, so that no check asks a second time.

        Raises:
            TransportError: It failed.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            return self._account
        except TransportError as error:
            self._refusal = error
            raise

    @cached_property
    def cluster(self) -> SlurmCluster:
        """The cluster's verbs. The home directory comes from the login: it is known without Slurm's commands, too."""
        return SlurmCluster(self.transport, remote_base=self.absolute(self.settings.remote_base, "remote_base"))

    @cached_property
    def request(self) -> JobRequest:
        """What is asked of Slurm for a job, with a partition of the cluster in the place of `auto`."""
        asked = self.settings.request
        return placed(self.cluster, asked)[0] if asked.partition == AUTO else asked

    def absolute(self, path: str, what: str) -> str:
        """As `SlurmCluster.absolute`, where Slurm's commands may be missing."""
        return resolved(self.transport, path, what, {"HOME": self.log_in()["home"][0]})

    def run(self, name: str, args: Sequence[str] = (), *, timeout_seconds: float = 60.0) -> CompletedCommand:
        """Run one of the doctor's checks at the far end: a verb of `checks.sh`."""
        return self.transport.run(verb(f"check_{name}", "dagster_slurm.doctor"), args, timeout_seconds=timeout_seconds)

    def gather(self, name: str, args: Sequence[str] = ()) -> Facts:
        """Run one that prints facts."""
        return read_facts(self.run(name, args).text)

    def close(self) -> None:
        """Let go; a connection that was made for this alone is ended."""
        transport = self._transport
        if transport is not None:
            transport.close()
        if self._own_directory is not None:
            if isinstance(transport, OpenSSHTransport):
                transport.disconnect()
            shutil.rmtree(self._own_directory, ignore_errors=True)
