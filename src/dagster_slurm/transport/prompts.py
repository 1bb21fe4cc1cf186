"""Which answer belongs to which prompt. Pure but for who is asked."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import subprocess

from dagster_slurm.transport.ssh_connection import SSHConnection

_PASSWORD = re.compile(r"\bpassword\b", re.IGNORECASE)
# A prompt that wants something else than the account's password, though it may name one.
_NOT_THE_PASSWORD = re.compile(
    r"one[- ]?time|\botp\b|token|\bcode\b|passcode|verification|second|factor|duo|\bpin\b|"
    r"\bnew\b|\bcurrent\b|\bexpired\b|\bretype\b|\bagain\b|passphrase",
    re.IGNORECASE,
)
_COMMAND_TIMEOUT_SECONDS = 60.0


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
                self.refusal = "The password was refused"
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
