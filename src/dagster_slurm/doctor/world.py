"""What the checks look at: the settings, and one connection that all of them share."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

from dagster_slurm.cluster import SlurmCluster
from dagster_slurm.cluster.slurm_cluster import resolved
from dagster_slurm.doctor.settings import Asked, Settings, read_settings
from dagster_slurm.errors import TransportError
from dagster_slurm.transport import CompletedCommand, LocalTransport, OpenSSHTransport, SSHConnection, Transport
from dagster_slurm.transport.openssh import ControlMaster
from dagster_slurm.transport.shell import shell_file

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
        return self.gather("login.sh")

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

    def absolute(self, path: str, what: str) -> str:
        """As `SlurmCluster.absolute`, where Slurm's commands may be missing."""
        return resolved(self.transport, path, what, {"HOME": self.log_in()["home"][0]})

    def run(self, name: str, args: Sequence[str] = (), *, timeout_seconds: float = 60.0) -> CompletedCommand:
        """Run one of the doctor's shell files at the far end."""
        script = shell_file("dagster_slurm.doctor.scripts", name)
        return self.transport.run(script, args, timeout_seconds=timeout_seconds)

    def gather(self, name: str, args: Sequence[str] = ()) -> Facts:
        """Run one of the doctor's shell files that print facts."""
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
