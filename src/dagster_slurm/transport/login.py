"""One login: every hop on the way with its own answers, as one command line."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import IO

from dagster_slurm.errors import AuthenticationError, TransportError
from dagster_slurm.transport.askpass import Askpass
from dagster_slurm.transport.prompts import Answers
from dagster_slurm.transport.shell import quote
from dagster_slurm.transport.ssh_connection import SSHConnection
from dagster_slurm.transport.ssh_faults import connection_fault


def client_environment(connection: SSHConnection) -> dict[str, str]:
    """This process's environment, for `ssh`, without the passwords: whoever has `SendEnv` would send them along."""
    passwords = {hop.password for hop in connection.hops()}
    return {name: value for name, value in os.environ.items() if value not in passwords}


class Login:
    """What is needed while `ssh` logs in to a host and to the hosts on the way there.

    Use it as a context manager around the time of the login.

    Args:
        connection: Where to.
    """

    def __init__(self, connection: SSHConnection) -> None:
        self._connection = connection
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: list[Answers] = []
        self._programs: dict[SSHConnection, Askpass] = {}
        self._said_on_the_way: IO[bytes] | None = None

    def __enter__(self) -> Login:
        if self._connection.jump is not None:
            self._said_on_the_way = tempfile.NamedTemporaryFile(prefix="dagster-slurm-jump-")
        for hop in self._connection.hops():
            if hop.may_be_asked:
                answers = Answers(hop)
                self._answers.append(answers)
                self._programs[hop] = Askpass(answers, self._end)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for program in self._programs.values():
            program.close()
        if self._said_on_the_way is not None:
            self._said_on_the_way.close()
            self._said_on_the_way = None

    def argv(self, options: Sequence[str]) -> list[str]:
        """`ssh` with its options up to, and without, the command for the far end."""
        to = self._connection
        return ["ssh", *options, *self._proxy(to), *to.arguments(), "--", to.host]

    def environment(self) -> dict[str, str]:
        """The environment for that `ssh`."""
        program = self._programs.get(self._connection)
        return {**client_environment(self._connection), **(program.environment() if program else {})}

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Name the process that is ended when nobody can answer what it asks for."""
        self._process = process

    def fault(self, said: str, returncode: int | None) -> TransportError:
        """The error for a login that failed."""
        host = self._connection.label
        for answers in self._answers:
            if answers.refusal is not None:
                return AuthenticationError(
                    answers.refusal,
                    hint="Set password or askpass_command, or run `dagster-slurm login` on a terminal first.",
                    host=host,
                )
        on_the_way = self._said_on_the_way.read().decode("utf-8", "replace") if self._said_on_the_way else ""
        return connection_fault(f"{on_the_way}{said}", returncode, host=host)

    def _proxy(self, connection: SSHConnection) -> list[str]:
        """The way through the jump host. Percent signs are ssh's own tokens there (ssh_config(5), TOKENS)."""
        jump = connection.jump
        if jump is None:
            return []
        program = self._programs.get(jump)
        variables = [f"{name}={value}" for name, value in (program.environment() if program else {}).items()]
        options = ["-T", "-o", "ControlMaster=no", "-o", "ControlPath=none", *self._proxy(jump), *jump.arguments()]
        words = [*self._noting(), "env", *variables, "ssh", *options]
        command = " ".join(quote(word).replace("%", "%%") for word in words)
        return ["-o", f"ProxyCommand={command} -W [%h]:%p -- {quote(jump.host)}"]

    def _noting(self) -> list[str]:
        """What keeps the errors of a jump host: ssh drops those of a ProxyCommand if there is a ControlPersist."""
        if self._said_on_the_way is None:
            return []
        return ["sh", "-c", 'exec "$@" 2>>"$0"', self._said_on_the_way.name]

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
