"""One login: every hop on the way with its own answers, as one command line."""

from __future__ import annotations

import getpass
import os
import re
import select
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from dagster_slurm.errors import AuthenticationError, TransportError
from dagster_slurm.transport.shell import quote, shell_file
from dagster_slurm.transport.ssh_connection import SSHConnection, connection_fault

# A person may have to allow it in a browser.
_BEFORE_TIMEOUT_SECONDS = 120.0


def client_environment(connection: SSHConnection) -> dict[str, str]:
    """This process's environment, for `ssh`, without the passwords: whoever has `SendEnv` would send them along."""
    passwords = {hop.password for hop in connection.hops()}
    return {name: value for name, value in os.environ.items() if value not in passwords}


def run_all_before(connection: SSHConnection) -> None:
    """Run what each host on the way wants to be run on this machine before a login.

    Raises:
        AuthenticationError: One could not be run, ended with another exit code than 0, or takes too long.
    """
    for hop in connection.hops():
        if hop.before_connect is not None:
            _run_before(hop, hop.before_connect)


def _run_before(hop: SSHConnection, command: str) -> None:
    what = f"The before_connect command, `{command.split(maxsplit=1)[0] if command.split() else command}`,"
    try:
        subprocess.run(
            shlex.split(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_BEFORE_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        problem = f"{what} ended with exit code {error.returncode}: {(error.stderr or error.stdout).strip()[-300:]}"
    except subprocess.TimeoutExpired:
        problem = f"{what} has not ended within {_BEFORE_TIMEOUT_SECONDS:.0f} s"
    except (OSError, ValueError, IndexError) as error:
        problem = f"{what} cannot be run: {error}"
    else:
        return
    raise AuthenticationError(problem, hint="Run it by hand; nobody has tried to log in.", host=hop.label)


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
        run_all_before(self._connection)
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
                was_given = answers.refusal == _PASSWORD_REFUSED
                return AuthenticationError(
                    answers.refusal,
                    hint="Correct the password (PASSWORD); it was tried once only, since accounts lock."
                    if was_given
                    else "Set password or askpass_command, or run `dagster-slurm login` on a terminal first.",
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


_PASSWORD = re.compile(r"\bpassword\b", re.IGNORECASE)
# A prompt that wants something else than the account's password, though it may name one.
_NOT_THE_PASSWORD = re.compile(
    r"one[- ]?time|\botp\b|token|\bcode\b|passcode|verification|second|factor|duo|\bpin\b|"
    r"\bnew\b|\bcurrent\b|\bexpired\b|\bretype\b|\bagain\b|passphrase",
    re.IGNORECASE,
)
_COMMAND_TIMEOUT_SECONDS = 60.0
_PASSWORD_REFUSED = "The password was refused"  # noqa: S105 - a message


def asks_for_password(prompt: str) -> bool:
    """Whether a prompt asks for the account's password, and for nothing else."""
    return bool(_PASSWORD.search(prompt)) and not _NOT_THE_PASSWORD.search(prompt)


class Answers:
    """Answers the prompts of one login.

    Args:
        connection: Whose login it is.
    """

    def __init__(self, connection: SSHConnection) -> None:
        self._connection = connection
        self._password_given = False
        self.refusal: str | None = None

    def answer(self, prompt: str) -> str | None:
        """The answer; None if there is none, and then `refusal` says why."""
        if asks_for_password(prompt) and self._connection.password is not None:
            if self._password_given:
                self.refusal = _PASSWORD_REFUSED
                return None
            self._password_given = True
            return self._connection.password
        if self._connection.askpass_command is not None:
            return self._ask_command(self._connection.askpass_command, prompt)
        if not self._connection.batch_mode and _has_terminal():
            return getpass.getpass(f"{prompt.strip()} ")
        self.refusal = f"The server asks for {prompt.strip()!r}, and nothing is configured to answer that"
        return None

    def _ask_command(self, command: str, prompt: str) -> str | None:
        try:
            done = subprocess.run(
                [*shlex.split(command), prompt],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.refusal = f"The askpass_command could not be run for {prompt.strip()!r}: {error}"
            return None
        if done.returncode or not done.stdout:
            self.refusal = f"The askpass_command gave no answer to {prompt.strip()!r}: {done.stderr.strip()[-300:]}"
            return None
        return done.stdout.splitlines()[0]


def _has_terminal() -> bool:
    """Whether a person can be asked: a terminal, and this process in its foreground."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


_END_OF_PROMPT = b"\x04"


class Askpass:
    """A program for ssh to ask, and the thread that answers it, for one login.

    Args:
        answers: Answers the prompts.
        on_refusal: Called when there is no answer, in place of one: ssh would send an empty one, which servers count
            as an attempt.
    """

    def __init__(self, answers: Answers, on_refusal: Callable[[], None]) -> None:
        self._answers = answers
        self._on_refusal = on_refusal
        self._directory = Path(tempfile.mkdtemp(prefix="dagster-slurm-askpass-"))
        self._prompts, self._replies = (self._pipe(name) for name in ("prompt", "answer"))
        self._stop, self._stopped = os.pipe()
        program = self._directory / "askpass"
        program.write_text(shell_file("dagster_slurm.transport.scripts", "askpass.sh"), encoding="utf-8")
        program.chmod(0o700)
        self._thread = threading.Thread(target=self._serve, name="dagster-slurm-askpass", daemon=True)
        self._thread.start()

    def environment(self) -> dict[str, str]:
        """The variables that make ssh ask this program. DISPLAY is for OpenSSH before 8.4."""
        return {
            "SSH_ASKPASS": str(self._directory / "askpass"),
            "SSH_ASKPASS_REQUIRE": "force",
            "DISPLAY": os.environ.get("DISPLAY", ":0"),
        }

    def close(self) -> None:
        """Stop answering."""
        os.close(self._stopped)
        self._thread.join()
        for descriptor in (self._prompts, self._replies, self._stop):
            os.close(descriptor)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _pipe(self, name: str) -> int:
        path = self._directory / name
        os.mkfifo(path, 0o600)
        # For reading and writing, neither end waits for the other to be opened (fifo(7)).
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def _serve(self) -> None:
        received = b""
        while True:
            ready, _, _ = select.select([self._prompts, self._stop], [], [])
            if self._stop in ready:
                return
            received += os.read(self._prompts, 1 << 16)
            while _END_OF_PROMPT in received:
                prompt, _, received = received.partition(_END_OF_PROMPT)
                self._reply(self._answers.answer(prompt.decode("utf-8", "replace")))

    def _reply(self, answer: str | None) -> None:
        if answer is None:
            self._on_refusal()
        os.write(self._replies, b"-\n" if answer is None else f"+{answer}\n".encode())
