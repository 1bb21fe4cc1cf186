"""Answers for `ssh`, which asks a program of its own (SSH_ASKPASS, ssh(1)). Nothing secret is in an argv or a file."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from dagster_slurm.transport.prompts import Answers
from dagster_slurm.transport.shell import shell_file

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
