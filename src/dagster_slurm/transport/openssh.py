"""The OpenSSH client: a connection that all processes of this user share, or one of this process's own.

OpenSSH's client does the cryptography and reads `~/.ssh/config`; nothing here repeats what it does.
"""

from __future__ import annotations

import shutil
import threading
import time

from dagster_slurm.errors import AuthenticationError, ConnectionFailedError
from dagster_slurm.transport.budget import ChannelBudget, Token
from dagster_slurm.transport.channel import ShellChannel, shell_command
from dagster_slurm.transport.control_master import (
    CONNECT_TIMEOUT_SECONDS,
    ControlMaster,
    SharingImpossibleError,
    no_ssh_program,
)
from dagster_slurm.transport.login import Login, client_environment
from dagster_slurm.transport.shell_transport import ShellTransport
from dagster_slurm.transport.ssh_connection import SSHConnection
from dagster_slurm.transport.ssh_faults import SESSION_REFUSED, connection_fault

__all__ = ["OpenSSHTransport", "SSHConnection"]

_BUDGET_TIMEOUT_SECONDS = 120.0
_REFUSED_PAUSE_SECONDS = 0.25
_REFUSED_PATIENCE_SECONDS = 20.0
# Of the 10 that sshd_config(5) has as the default of MaxSessions.
_MAX_CHANNELS = 8
# A refused login is not tried again by itself before this: accounts lock, and hosts ban.
_REFUSED_LOGIN_SECONDS = 600.0


class _SessionRefusedError(ConnectionFailedError):
    """The server opens no further session on the shared connection."""


class OpenSSHTransport(ShellTransport):
    """Shells at the far end of OpenSSH.

    Where nothing has to be typed, over a ControlMaster that every process of this user finds and that ends
    `control_persist` after its last use; otherwise over one connection of this process, held open.

    Args:
        connection: How to reach the host.
        channels: How many shells this process may hold open at once over a shared connection.
    """

    def __init__(self, connection: SSHConnection, *, channels: int = 2) -> None:
        super().__init__(connection.label, channels=channels, keep=self._may_keep_channel)
        self.connection = connection
        self._master = ControlMaster(connection)
        self._budget = ChannelBudget(self._master.path, size=_MAX_CHANNELS)
        self._direct = False
        self._narrow = False
        self._refused: tuple[float, AuthenticationError] | None = None
        self._lock = threading.Lock()

    @property
    def is_shared(self) -> bool:
        """Whether the connection is one that all processes of this user share."""
        return not self._direct

    def disconnect(self) -> None:
        """End the shared connection, for every process that uses it."""
        self.close()
        self._master.end()

    def _max_channels(self) -> int:
        return 1 if self._direct or self._narrow else super()._max_channels()

    def _may_keep_channel(self) -> bool:
        return self._direct or not self._budget.contended()

    def _open_channel(self) -> ShellChannel:
        # One login at a time: threads that come meanwhile find what the first has made.
        with self._lock:
            self._choose()
            if self._direct:
                return self._log_in()
        try:
            return self._open_shared()
        except _SessionRefusedError:
            with self._lock:
                self._direct = True
                return self._log_in()

    def _choose(self) -> None:
        """Find out which of the two ways it is."""
        if self._direct or self._master.is_alive():
            return
        if self.connection.may_be_asked:
            self._direct = True
            return
        self._heed_refusal()
        try:
            self._master.ensure()
        except SharingImpossibleError:
            self._direct = True
        except AuthenticationError as error:
            self._refused = (time.monotonic(), error)
            raise

    def _heed_refusal(self) -> None:
        """A refused login stays refused for a while, without asking the server again."""
        if self._refused is not None and time.monotonic() - self._refused[0] < _REFUSED_LOGIN_SECONDS:
            raise self._refused[1]

    def _log_in(self) -> ShellChannel:
        self._heed_refusal()
        tty = self.connection.has_tty
        options = ["-tt" if tty else "-T", "-o", "EscapeChar=none", "-o", "ControlMaster=no", "-o", "ControlPath=none"]
        with Login(self.connection) as login:
            if shutil.which("ssh") is None:
                raise no_ssh_program()
            try:
                return ShellChannel(
                    [*login.argv(options), self.connection.remote_command(shell_command(tty=tty))],
                    env=login.environment(),
                    tty=tty,
                    fault=login.fault,
                    connect_timeout_seconds=3 * CONNECT_TIMEOUT_SECONDS,
                    on_start=login.watch,
                )
            except AuthenticationError as error:
                self._refused = (time.monotonic(), error)
                raise

    def _open_shared(self) -> ShellChannel:
        """Open a channel, waiting for those that other processes hold."""
        deadline = time.monotonic() + _REFUSED_PATIENCE_SECONDS
        while True:
            token = self._budget.acquire(timeout_seconds=_BUDGET_TIMEOUT_SECONDS)
            try:
                return self._open_with(token)
            except _SessionRefusedError:
                token.release()
                # The server opens fewer than are wanted: from now on, threads wait for each other.
                self._narrow = True
                idle = self._pool.take()
                if idle is not None:
                    return idle
                if time.monotonic() > deadline:
                    raise
                with self._budget.waiting():
                    time.sleep(_REFUSED_PAUSE_SECONDS)
            except BaseException:
                # The channel that would have given it back was never opened.
                token.release()
                raise

    def _open_with(self, token: Token) -> ShellChannel:
        tty = self.connection.has_tty
        argv = [
            "ssh",
            "-tt" if tty else "-T",
            *("-o", "EscapeChar=none"),
            *self._master.channel_options(),
            *self.connection.arguments(),
            "--",
            self.connection.host,
            self.connection.remote_command(shell_command(tty=tty)),
        ]
        return ShellChannel(
            argv,
            env=client_environment(self.connection),
            tty=tty,
            fault=self._channel_fault,
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            on_close=token.release,
        )

    def _channel_fault(self, said: str, returncode: int | None) -> ConnectionFailedError:
        fault = connection_fault(said, returncode, host=self.host)
        if SESSION_REFUSED in said:
            return _SessionRefusedError(fault.message, host=self.host)
        # Whatever a channel says, it is not a login that failed: the master is gone, or its link is.
        return ConnectionFailedError(fault.message, host=self.host)
