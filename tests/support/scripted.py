"""A transport without a machine, for tests: files in memory, commands answered by a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dagster_slurm.transport import content
from dagster_slurm.transport.base import DEFAULT_TIMEOUT_SECONDS, CompletedCommand, Transport, TreeEntry
from dagster_slurm.transport.content import archive_tree
from dagster_slurm.transport.progress import ProgressCallback

Answer = Callable[[str, Sequence[str], bytes], CompletedCommand]


class ScriptedTransport(Transport):
    """Answers `run` with a function of script, arguments and stdin; keeps what is put in `files`.

    Raise a `TransportError` in the function to play a broken connection.

    Args:
        answer: What a command prints and how it ends; by default nothing, with status 0.
        host: How errors name the other end.
    """

    def __init__(self, answer: Answer | None = None, *, host: str = "scripted") -> None:
        self.host = host
        self._answer = answer or (lambda script, args, stdin: CompletedCommand(b"", b"", 0))
        self.files: dict[str, bytes] = {}
        self.modes: dict[str, int] = {}
        self.calls: list[tuple[str, tuple[str, ...]]] = []

    def run(
        self,
        script: str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> CompletedCommand:
        self.calls.append((script, tuple(args)))
        return self._answer(script, args, stdin)

    def put(
        self,
        source: bytes | Path,
        destination: str,
        *,
        mode: int = 0o600,
        sha256: str = "",
        progress: ProgressCallback | None = None,
    ) -> None:
        self.files[destination] = b"".join(content.blocks(source))
        self.modes[destination] = mode

    def put_tree(
        self, entries: Iterable[TreeEntry], destination: str, *, progress: ProgressCallback | None = None
    ) -> None:
        files = list(entries)
        archive_tree(files)
        if any(path.startswith(f"{destination}/") for path in self.files):
            return
        for entry in files:
            if entry.is_directory:
                continue
            self.put(entry.source, f"{destination}/{entry.name}", mode=entry.mode)

    def read_from(self, path: str, offset: int, max_bytes: int) -> bytes:
        return self.files.get(path, b"")[offset : offset + max_bytes]

    def close(self) -> None:
        """Nothing is held."""
