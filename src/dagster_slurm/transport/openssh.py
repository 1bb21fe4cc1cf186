"""The OpenSSH client: a connection that all processes of this user share, or one of this process's own.

OpenSSH's client does the cryptography and reads `~/.ssh/config`; nothing here repeats what it does.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from dagster_slurm.errors import AuthenticationError, ConfigurationError, ConnectionFailedError, TransportError
from dagster_slurm.transport.channel import ShellChannel, shell_command
from dagster_slurm.transport.login import Login, client_environment, run_all_before
from dagster_slurm.transport.pool import ChannelBudget, ForeignDirectoryError, Token, make_own, refuse_foreign
from dagster_slurm.transport.shell_transport import ShellTransport
from dagster_slurm.transport.ssh_connection import (
    SESSION_REFUSED,
    SSHConnection,
    connection_fault,
    is_about_multiplexing,
)

__all__ = ["OpenSSHTransport", "SSHConnection"]

_BUDGET_TIMEOUT_SECONDS = 120.0
# What a login runs at its start takes its time on busy file systems; a host that is away is found out by ssh itself.
_SHELL_TIMEOUT_SECONDS = 300.0
_REFUSED_PAUSE_SECONDS = 0.25
_REFUSED_PATIENCE_SECONDS = 20.0
# Of the 10 that sshd_config(5) has as the default of MaxSessions.
_MAX_CHANNELS = 8
# Where others wait for a channel, nothing waits at the far end for so long.
_NOTHING_ASIDE_SECONDS = 10.0
# A refused login is not tried again by itself before this: accounts lock, and hosts ban.
_REFUSED_LOGIN_SECONDS = 600.0


_log = logging.getLogger(__name__)


class _SessionRefusedError(ConnectionFailedError):
    """The server opens no further session on the shared connection."""


class _WordlessError(AuthenticationError):
    """A session of the shared connection has ended with success, before it took a command, and without a word.

    So do those of a connection that is broken, though `ssh -O check` calls it alive; and those of a login whose shell
    ends by itself.
    """


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
        self._nothing_aside_until = float("-inf")
        self._refused: tuple[float, AuthenticationError] | None = None
        self._is_replaced = False
        self._has_tried = False
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

    def _has_to_spare(self) -> bool:
        if not self._may_keep_channel():
            self._need_all(_NOTHING_ASIDE_SECONDS)
        return super()._has_to_spare() and time.monotonic() >= self._nothing_aside_until

    def _need_all(self, seconds: float) -> None:
        """Let nothing wait at the far end for a while, or ever."""
        self._nothing_aside_until = max(self._nothing_aside_until, time.monotonic() + seconds)

    def _open_aside(self) -> ShellChannel:
        try:
            return self._open_with(self._budget.spare())
        except TransportError as error:
            # A connection that is gone, the next request that needs one finds out, and makes it anew.
            self._need_all(float("inf") if isinstance(error, _SessionRefusedError) else _NOTHING_ASIDE_SECONDS)
            raise

    def _open_channel(self) -> ShellChannel:
        # One login at a time: threads that come meanwhile find what the first has made.
        with self._lock:
            self._choose()
            if self._direct:
                return self._log_in()
            master = self._master.seen
        try:
            channel = self._open_shared()
        except _SessionRefusedError:
            with self._lock:
                self._direct = True
                return self._log_in()
        except _WordlessError:
            return self._open_doubted(master)
        self._is_replaced = False
        return channel

    def _open_doubted(self, master: object) -> ShellChannel:
        try:
            # One is no rule.
            channel = self._open_shared()
        except _WordlessError as error:
            with self._lock:
                self._give_up(master, error)
            return self._open_channel()
        self._is_replaced = False
        return channel

    def _give_up(self, master: object, error: _WordlessError) -> None:
        """Have a connection that is good for nothing replaced; once, until one was good for something."""
        if self._is_replaced:
            raise error
        if self._master.stop(master):
            self._is_replaced = True
            _log.warning(f"{self.host}: the shared connection is replaced, since its sessions end without a word")

    def _choose(self) -> None:
        """Find out which of the two ways it is."""
        if not self._has_tried:
            self.connection.refuse_missing_keys()
        is_alive = not self._direct and self._master.is_alive()
        if is_alive and not self._has_tried:
            self.remark = self._master.unused()
        self._has_tried = True
        if self._direct or is_alive:
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
        opened: list[ShellChannel] = []
        with Login(self.connection) as login:
            if shutil.which("ssh") is None:
                raise no_ssh_program()
            try:
                channel = ShellChannel(
                    [*login.argv(options), self.connection.remote_command(shell_command(tty=tty))],
                    env=login.environment(),
                    tty=tty,
                    fault=lambda said, status: own_end(said, status, self.host, opened) or login.fault(said, status),
                    connect_timeout_seconds=_SHELL_TIMEOUT_SECONDS,
                    on_start=login.watch,
                )
                opened.append(channel)
                return channel
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
                # The server opens fewer than are wanted: from now on nothing waits there, and threads wait for each
                # other, unless what waited has kept one.
                self._narrow = self._narrow or not self._asides.is_used
                self._need_all(float("inf"))
                idle = self._pool.take() or self._asides.take()
                if idle is not None:
                    return idle
                if time.monotonic() > deadline:
                    raise
                with self._budget.waiting():
                    time.sleep(_REFUSED_PAUSE_SECONDS)

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
        opened: list[ShellChannel] = []
        try:
            channel = ShellChannel(
                argv,
                env=client_environment(self.connection),
                tty=tty,
                fault=lambda said, status: self._shared_fault(said, status, opened),
                connect_timeout_seconds=_SHELL_TIMEOUT_SECONDS,
                on_close=token.release,
            )
        except BaseException:
            # The channel that would have given it back was never opened.
            token.release()
            raise
        opened.append(channel)
        return channel

    def _shared_fault(self, said: str, returncode: int | None, opened: Sequence[ShellChannel]) -> TransportError:
        ended = own_end(said, returncode, self.host, opened)
        if ended is not None:
            return ended if said or returncode else _WordlessError(ended.message, hint=ended.hint, host=self.host)
        fault = connection_fault(said, returncode, host=self.host)
        if SESSION_REFUSED in said:
            return _SessionRefusedError(fault.message, host=self.host)
        # Whatever a channel says, it is not a login that failed: the master is gone, or its link is.
        return ConnectionFailedError(fault.message, host=self.host)


_LARGEST_OWN_STATUS = 127


def own_end(said: str, status: int | None, host: str, opened: Sequence[ShellChannel]) -> AuthenticationError | None:
    """The error for a login that ssh has made, and whose shell has then ended by itself: no outage. None otherwise.

    So it is with an account that has expired, with nologin(8), and with one that is for sftp alone.
    """
    if opened or status is None or not 0 <= status <= _LARGEST_OWN_STATUS or SESSION_REFUSED in said:
        return None
    return AuthenticationError(
        f"The login's shell ends with status {status} before it takes a command: {said or 'it says nothing'}",
        hint="Log in by hand to see what the account is good for; a post_login_command may be wrong as well.",
        host=host,
    )


CONNECT_TIMEOUT_SECONDS = 20.0
_CONTROL_TIMEOUT_SECONDS = 10.0
_NO_MASTER_STATUS = 255


def no_ssh_program() -> ConfigurationError:
    """The error where there is no OpenSSH client."""
    return ConfigurationError("The program `ssh` is not installed", hint="Install OpenSSH's client.")


def _asking_on_terminal(connection: SSHConnection) -> SSHConnection:
    """The same hops, with nothing to answer for them but the terminal."""
    jump = None if connection.jump is None else _asking_on_terminal(connection.jump)
    return replace(connection, password=None, askpass_command=None, batch_mode=False, jump=jump)


def _end_of(process: subprocess.Popen[bytes], timeout_seconds: float) -> int | None:
    """How a process ends; None if it had to be killed.

    `Popen.wait` with a timeout looks every 50 ms only, and a login takes less than 200 ms.
    """
    late = threading.Event()

    def give_up() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(timeout_seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        returncode = process.wait()
    finally:
        timer.cancel()
    return None if late.is_set() else returncode


class SharingImpossibleError(TransportError):
    """No shared connection can be made here; one of one's own may work."""


class ControlMaster:
    """The shared connection to one host.

    Args:
        connection: How to reach it.
        control_persist: How long it stays after its last use, in place of the connection's own.
    """

    def __init__(self, connection: SSHConnection, *, control_persist: str | None = None) -> None:
        self._connection = connection
        self._control_persist = control_persist or connection.control_persist
        self.path = connection.control_path()
        self.seen: object = None

    def is_alive(self) -> bool:
        """Whether it is there; asks the master process, not the host.

        Raises:
            ConfigurationError: Somebody else may have put it there.
        """
        return self._is_there() and self._control("check") == 0

    def _is_there(self) -> bool:
        with suppress(FileNotFoundError), _refusing_foreign():
            refuse_foreign(self.path.parent)
        self.seen = None
        with suppress(OSError):
            found = self.path.stat()
            # What tells it from one in its place.
            self.seen = found.st_ino, found.st_mtime_ns
        return self.seen is not None

    def unused(self) -> str:
        """What this connection would log in with and an open one was not made with, in words; empty for nothing."""
        to, made_with = self._connection, ""
        with suppress(OSError):
            made_with = self._record.read_text(encoding="utf-8")
        what = ""
        if to.password is not None:
            what = "the password was not used, and may be wrong"
        elif made_with and made_with != to.keys():
            what = f"the key {to.key_path} was not used, and may be wrong" if to.key_path else ""
        return what and (
            f"A connection to {to.label} is open already: {what}. `dagster-slurm login --end` ends that connection"
        )

    @property
    def _record(self) -> Path:
        """Where it says with what it was made."""
        return self.path.with_suffix(".login")

    def _note_keys(self) -> None:
        with suppress(OSError):
            self._record.write_text(self._connection.keys(), encoding="utf-8")

    def ensure(self) -> None:
        """Start it unless it is there; of processes that come at once, one starts it.

        Raises:
            SharingImpossibleError: The socket cannot be made.
            TransportError: The login failed.
        """
        with self._locked():
            if not self.is_alive():
                self.path.unlink(missing_ok=True)
                self._start()
                self._note_keys()

    def stop(self, doubted: object) -> bool:
        """Have nothing more begin over it, unless another process has put one in its place; what is open goes on."""
        with self._locked():
            if not self._is_there() or self.seen != doubted:
                return False
            self._control("stop")
            self.path.unlink(missing_ok=True)
            return True

    def start_on_terminal(self) -> None:
        """Start it with ssh asking on this terminal for whatever each hop wants to know.

        Raises:
            SharingImpossibleError: The socket cannot be made.
            AuthenticationError: ssh did not get in; it has said why on the terminal.
        """
        asking = _asking_on_terminal(self._connection)
        with self._locked():
            self.path.unlink(missing_ok=True)
            run_all_before(asking)
            argv = Login(asking).argv(self._options())
            try:
                returncode = subprocess.run(argv, env=client_environment(asking), check=False).returncode
            except FileNotFoundError:
                raise no_ssh_program() from None
            self._note_keys()
        if returncode != 0 or not self.path.exists():
            raise AuthenticationError(
                f"ssh ended with status {returncode}", hint="It says why above.", host=self._connection.label
            )

    def _options(self) -> list[str]:
        persist = f"ControlPersist={self._control_persist}"
        return ["-T", "-M", "-N", "-f", "-S", str(self.path), "-o", persist]

    def end(self) -> None:
        """End it, for every process that uses it; a stranger's is let alone."""
        with suppress(ConfigurationError):
            if self._is_there():
                self._control("exit")

    def channel_options(self) -> list[str]:
        """The options of an `ssh` that opens a channel of it, and never logs in by itself."""
        # With the socket gone, ssh would quietly log in anew. ProxyCommand=false makes it fail instead.
        return ["-S", str(self.path), "-o", "ControlMaster=no", "-o", "ProxyCommand=false"]

    def _start(self) -> None:
        # A file, not a pipe: the master keeps its stderr open, and a pipe would never end.
        with tempfile.TemporaryFile() as said, Login(self._connection) as login:
            returncode = self._run(login, login.argv(self._options()), said.fileno())
            said.seek(0)
            text = said.read().decode("utf-8", "replace").strip()
            if returncode == 0 and self.path.exists():
                return
            if returncode == 0 or is_about_multiplexing(text):
                raise SharingImpossibleError(f"No shared connection: {text}", host=self._connection.label)
            raise login.fault(text, returncode)

    def _run(self, login: Login, argv: list[str], stderr: int) -> int:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=login.environment(),
                start_new_session=True,
            )
        except FileNotFoundError:
            raise no_ssh_program() from None
        login.watch(process)
        returncode = _end_of(process, CONNECT_TIMEOUT_SECONDS)
        if returncode is None:
            raise ConnectionFailedError(
                f"No connection within {CONNECT_TIMEOUT_SECONDS:.0f} s", host=self._connection.label
            )
        return returncode

    def _control(self, verb: str) -> int:
        argv = ["ssh", "-S", str(self.path), "-O", verb, "--", self._connection.host]
        try:
            return subprocess.run(argv, capture_output=True, timeout=_CONTROL_TIMEOUT_SECONDS, check=False).returncode
        except subprocess.TimeoutExpired:
            # A master that hangs serves nobody.
            return _NO_MASTER_STATUS
        except FileNotFoundError:
            raise no_ssh_program() from None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock beside the socket."""
        try:
            with _refusing_foreign():
                make_own(self.path.parent)
            lock = self.path.with_suffix(".lock").open("a")
        except OSError as error:
            raise SharingImpossibleError(f"No shared connection: {error}", host=self._connection.label) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def run_on_terminal(connection: SSHConnection, command: str) -> int:
    """Run a command at the far end with this terminal as its own, over the shared connection if that is open.

    Without one, ssh asks on this terminal for what neither a password nor an `askpass_command` answers.

    Returns:
        Its exit status.
    """
    master, remote = ControlMaster(connection), connection.remote_command(command)
    options = ["-t", *(master.channel_options() if master.is_alive() else ("-o", "ControlPath=none"))]
    try:
        if connection.password or connection.askpass_command:
            with Login(connection) as login:
                argv, variables = [*login.argv(options), remote], login.environment()
                return subprocess.run(argv, env=variables, check=False).returncode
        asking = _asking_on_terminal(connection)
        run_all_before(connection)
        argv, variables = [*Login(asking).argv(options), remote], client_environment(asking)
        return subprocess.run(argv, env=variables, check=False).returncode
    except FileNotFoundError:
        raise no_ssh_program() from None


@contextmanager
def _refusing_foreign() -> Iterator[None]:
    """Whose socket it is tells the directory alone: ssh sends through it whatever it is given."""
    try:
        yield
    except ForeignDirectoryError as error:
        raise ConfigurationError(
            f"The directory for connections cannot be used: {error}",
            hint="Set DAGSTER_SLURM_SSH_CONTROL_DIR to a short path of a directory that only you may write to.",
        ) from error
