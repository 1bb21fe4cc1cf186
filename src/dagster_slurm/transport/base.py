"""What every transport can do. Six methods; everything above is written against these alone."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagster_slurm.errors import DagsterSlurmError, UnreadableAnswerError, reason
from dagster_slurm.transport.progress import ProgressCallback

DEFAULT_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True)
class CompletedCommand:
    """What a command printed and how it ended."""

    stdout: bytes
    stderr: bytes
    returncode: int

    @property
    def text(self) -> str:
        """Stdout as text; bytes that are not UTF-8 are replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def error_text(self) -> str:
        """Stderr as text, without surrounding white space."""
        return self.stderr.decode("utf-8", "replace").strip()

    @property
    def reason(self) -> str:
        """Why it has failed, for an error: what it says, or that it says nothing."""
        return reason(self.error_text, self.returncode)


@dataclass(frozen=True)
class TreeEntry:
    """One file of a tree to put: `name` is relative, with `/` between its parts; an empty directory has one behind it.

    `source` is the content itself, or a file of this machine that is read while it is sent. A symlink has none, but the
    path `link` to which it leads.
    """

    name: str
    source: bytes | Path = b""
    mode: int = 0o600
    link: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is an empty directory, which has no content."""
        return self.name.endswith("/")


class Transport(ABC):
    """A way to one machine: the login node of a cluster, or this machine.

    Every method raises the `TransportError` that fits. `transient` ones may be tried again; whether the
    command has run is unknown then, so only what may be repeated is repeated.

    Attributes:
        host: How errors name the machine.
        remark: What a person wants to know of the way before anything else; empty for nothing.
    """

    host: str
    remark: str = ""

    @property
    def is_shared(self) -> bool:
        """Whether its connection is one that all processes of this user share. On this machine, none is needed."""
        return True

    @abstractmethod
    def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> CompletedCommand:
        """Run a POSIX shell script with `args` as its `$1`, `$2` ...; values never stand in the script."""

    def run_aside(
        self, script: str, args: Sequence[str] = (), *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> CompletedCommand | None:
        """As `run`, for what waits at the far end: no other request waits for it. None where one would, or might."""
        del script, args, timeout_seconds
        return None

    @abstractmethod
    def put(
        self,
        source: bytes | Path,
        destination: str,
        *,
        mode: int = 0o600,
        sha256: str = "",
        progress: ProgressCallback | None = None,
    ) -> None:
        """Put one file: sent beside its destination, checked to have arrived whole, then renamed.

        It goes on, when it is put again, from what has arrived, whoever has sent that; one that is there with this
        content stays as it is. `sha256` is that of the content, where it is known. `progress` is called now and then
        while something large is sent.
        """

    @abstractmethod
    def put_tree(
        self, entries: Iterable[TreeEntry], destination: str, *, progress: ProgressCallback | None = None
    ) -> None:
        """Put files as the new directory `destination` (0700), in one stream, checked, then renamed.

        An existing destination is left as it is and is not an error: whoever repeats a `put_tree` whose
        answer was lost must not put it twice.
        """

    @abstractmethod
    def read_from(self, path: str, offset: int, max_bytes: int) -> bytes:
        """Read up to `max_bytes` of a file from `offset` on; empty at its end, or if it is missing."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what this process holds. What other processes share stays."""

    def command(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> CompletedCommand:
        """Run one program with its arguments."""
        return self.run('"$@"', argv, stdin=stdin, timeout_seconds=timeout_seconds)


MOST_BYTES = 512 << 20
"""What one request may be answered with: more than a listing of a million files, and less than the memory there is."""

_WHOLE_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_SHOWN_CHARACTERS = 200


@contextmanager
def reading(what: str, *, host: str | None = None) -> Iterator[None]:
    """Read an answer; what a parser raises at one that it does not know becomes the typed error.

    Args:
        what: What is read, as the beginning of a sentence.
        host: Who has answered.

    Raises:
        UnreadableAnswerError: It is no answer of our scripts.
    """
    try:
        yield
    except DagsterSlurmError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableAnswerError(
            f"{what} cannot be read: {str(error)[:_SHOWN_CHARACTERS]}",
            hint="Something on the login node answers in the place of our scripts; `dagster-slurm doctor` looks at it.",
            host=host,
        ) from error


def whole_number(text: str) -> int:
    """A count, a size or a place in a file.

    Raises:
        ValueError: It is none.
    """
    if not _WHOLE_NUMBER.fullmatch(text):
        raise ValueError(f"not a whole number: {text[:_SHOWN_CHARACTERS]!r}")
    return int(text)


def name_below(name: str) -> str:
    """The name of a file below a directory.

    Raises:
        ValueError: It leads elsewhere.
    """
    if not {"", ".", ".."}.isdisjoint(name.split("/")) or "\0" in name:
        raise ValueError(f"{name[:_SHOWN_CHARACTERS]!r} is not the name of a file in that directory")
    return name
