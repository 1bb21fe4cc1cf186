"""The OpenSSH client, multiplexed: one login for every process of this user on this machine.

OpenSSH's client does the cryptography and reads `~/.ssh/config`; nothing here repeats what it does.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dagster_slurm.errors import (
    AuthenticationError,
    ConfigurationError,
    ConnectionFailedError,
    HostKeyError,
    SSHConfigurationError,
    TransportError,
)
from dagster_slurm.transport.budget import ChannelBudget, Token
from dagster_slurm.transport.channel import ShellChannel, shell_command
from dagster_slurm.transport.shell_transport import ShellTransport

HostKeyChecking = Literal["strict", "accept-new", "off", "inherit"]
# sun_path holds 108 bytes (unix(7)); while binding, ssh appends a dot and 16 characters to the name.
_MAX_SOCKET_PATH_BYTES = 107 - 17
_CONNECT_TIMEOUT_SECONDS = 20.0
_CONTROL_TIMEOUT_SECONDS = 10.0
_NO_MASTER_STATUS = 255
_BUDGET_TIMEOUT_SECONDS = 120.0
# Of the 10 that sshd_config(5) has as the default of MaxSessions.
_MAX_CHANNELS = 8


@dataclass(frozen=True)
class SSHConnection:
    """How to reach a login node. What is not set is left to `~/.ssh/config`.

    Args:
        host: Name, address, or a `Host` of `~/.ssh/config`.
        port: TCP port; None leaves it to the configuration.
        user: User name there; None leaves it to the configuration.
        key_path: Private key to offer, and then no other.
        host_key_checking: `strict` refuses unknown and changed host keys, `accept-new` only changed ones,
            `off` none, `inherit` does as `~/.ssh/config` says.
        known_hosts_file: File of known host keys, in place of OpenSSH's own.
        extra_opts: Further arguments for `ssh`, such as `["-o", "Compression=yes"]`.
        control_dir: Where the shared connection's socket lies.
        control_persist: How long the shared connection stays after its last use, as ssh_config(5) has it.
    """

    host: str
    port: int | None = None
    user: str | None = None
    key_path: str | None = None
    host_key_checking: HostKeyChecking = "strict"
    known_hosts_file: str | None = None
    extra_opts: tuple[str, ...] = ()
    control_dir: str = "~/.ssh/dagster-slurm"
    control_persist: str = "10m"

    def __post_init__(self) -> None:
        for name, value in (("host", self.host), ("user", self.user)):
            if value is not None and (not value or value.startswith("-") or any(map(str.isspace, value))):
                raise ConfigurationError(
                    f"The SSH {name} {value!r} is not a name",
                    hint="Give a host name, an address or a Host of ~/.ssh/config, without user or port.",
                )

    @property
    def label(self) -> str:
        """The other end, for logs and errors."""
        host = f"{self.user}@{self.host}" if self.user else self.host
        return f"{host}:{self.port}" if self.port not in (None, 22) else host

    def arguments(self) -> list[str]:
        """What every `ssh` of this connection is called with, options first, without the host.

        Source: ssh(1), ssh_config(5). Command-line options win over the configuration files.
        """
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            # A dead link is found within 30 s.
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "2",
            "StrictHostKeyChecking": _STRICT_HOST_KEY_CHECKING[self.host_key_checking],
            "UserKnownHostsFile": self._known_hosts(),
            "IdentitiesOnly": "yes" if self.key_path else None,
            "ForwardAgent": "no",
            "ForwardX11": "no",
        }
        arguments = ["-T", *self.extra_opts]
        for name, value in options.items():
            arguments += ["-o", f"{name}={value}"] if value is not None else []
        arguments += ["-i", str(Path(self.key_path).expanduser())] if self.key_path else []
        arguments += ["-p", str(self.port)] if self.port is not None else []
        arguments += ["-l", self.user] if self.user else []
        return arguments

    def _known_hosts(self) -> str | None:
        if self.host_key_checking == "off":
            return "/dev/null"
        if self.known_hosts_file is None:
            return None
        return f'"{Path(self.known_hosts_file).expanduser()}"'

    def control_path(self) -> Path:
        """Where the socket of the shared connection lies; one for each way to reach a host.

        A path too long for the system is replaced by one below `/tmp`, for this user alone.
        """
        name = hashlib.sha256(repr((os.getuid(), self)).encode()).hexdigest()[:16]
        path = Path(self.control_dir).expanduser() / name
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
            return path
        # Not $TMPDIR, which may be as long.
        return Path("/tmp") / f"dagster-slurm-{os.getuid()}" / name  # noqa: S108 - see `_locked`


_STRICT_HOST_KEY_CHECKING: dict[HostKeyChecking, str | None] = {
    "strict": "yes",
    "accept-new": "accept-new",
    "off": "no",
    "inherit": None,
}


class OpenSSHTransport(ShellTransport):
    """Shells over one shared connection.

    The connection is a ControlMaster of its own process: it is found again by the next process of this
    user, and ends `control_persist` after its last use.

    Args:
        connection: How to reach the host.
        channels: How many shells this process may hold open at once over the connection.
    """

    def __init__(self, connection: SSHConnection, *, channels: int = 2) -> None:
        super().__init__(connection.label, channels=channels)
        self.connection = connection
        self._control_path = connection.control_path()
        self._budget = ChannelBudget(self._control_path, size=_MAX_CHANNELS)

    def disconnect(self) -> None:
        """End the shared connection, for every process that uses it."""
        self.close()
        self._control("exit")

    def _may_keep_channel(self) -> bool:
        return not self._budget.contended()

    def _open_channel(self) -> ShellChannel:
        self._ensure_master()
        token = self._budget.acquire(timeout_seconds=_BUDGET_TIMEOUT_SECONDS)
        try:
            return self._open_with(token)
        except BaseException:
            # The channel that would have given it back was never opened.
            token.release()
            raise

    def _open_with(self, token: Token) -> ShellChannel:
        argv = (
            "ssh",
            "-S",
            str(self._control_path),
            "-o",
            "ControlMaster=no",
            # With the socket gone, ssh would quietly log in anew. This makes it fail instead.
            "-o",
            "ProxyCommand=false",
            *self.connection.arguments(),
            "--",
            self.connection.host,
            shell_command(),
        )
        return ShellChannel(
            argv, fault=self._fault, connect_timeout_seconds=_CONNECT_TIMEOUT_SECONDS, on_close=token.release
        )

    def _ensure_master(self) -> None:
        with _locked(self._control_path):
            if self._control("check") != 0:
                self._control_path.unlink(missing_ok=True)
                self._start_master()

    def _start_master(self) -> None:
        argv = [
            "ssh",
            "-M",
            "-N",
            "-f",
            "-S",
            str(self._control_path),
            "-o",
            f"ControlPersist={self.connection.control_persist}",
            *self.connection.arguments(),
            "--",
            self.connection.host,
        ]
        # A file, not a pipe: the master keeps its stderr open, and a pipe would never end.
        with tempfile.TemporaryFile() as said:
            try:
                returncode = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=said,
                    start_new_session=True,
                    timeout=_CONNECT_TIMEOUT_SECONDS,
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                raise ConnectionFailedError(
                    f"No connection within {_CONNECT_TIMEOUT_SECONDS:.0f} s", host=self.host
                ) from None
            said.seek(0)
            if returncode != 0:
                raise self._fault(said.read().decode("utf-8", "replace").strip(), returncode)

    def _control(self, verb: str) -> int:
        argv = ["ssh", "-S", str(self._control_path), "-O", verb, "--", self.connection.host]
        try:
            return subprocess.run(argv, capture_output=True, timeout=_CONTROL_TIMEOUT_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            # A master that hangs serves nobody.
            return _NO_MASTER_STATUS
        except FileNotFoundError:
            raise ConfigurationError("The program `ssh` is not installed", hint="Install OpenSSH's client.") from None

    def _fault(self, said: str, returncode: int | None) -> TransportError:
        return connection_fault(said, returncode, host=self.host)


def connection_fault(said: str, returncode: int | None, *, host: str) -> TransportError:
    """The error for what `ssh` said when it could not connect, or lost its connection."""
    last = said.splitlines()[-1].strip() if said else f"ssh ended with status {returncode}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said:
        return HostKeyError(
            "The host key is not the one on record: the host was reinstalled, or somebody is in between",
            hint="Ask the site; if the new key is right, remove the old one with `ssh-keygen -R`.",
            host=host,
        )
    if "Host key verification failed" in said:
        return HostKeyError(
            "The host key is not known",
            hint='Log in once with `ssh` to record it, or set host_key_checking="accept-new".',
            host=host,
        )
    if "Session open refused by peer" in said:
        return ConnectionFailedError(
            "The server opens no further session over the shared connection (its MaxSessions)", host=host
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        return AuthenticationError(
            f"The login was refused: {last}", hint="Check the user name and the key (key_path).", host=host
        )
    if "Bad configuration option" in said or "Bad owner or permissions" in said:
        return SSHConfigurationError(f"OpenSSH's configuration is not usable: {last}", host=host)
    return ConnectionFailedError(f"The connection failed: {last}", host=host)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock beside `path`, so that processes that start together log in once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.parent.stat().st_uid != os.getuid():
        raise ConfigurationError(
            f"The directory for connections, {path.parent}, belongs to somebody else",
            hint="Set DAGSTER_SLURM_SSH_CONTROL_DIR to a directory of your own.",
        )
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
