"""Submissions of threads that come at the same time, in one round trip.

Of each, the tree of its attempt, its claim and sbatch. What may be repeated, and what stays when it breaks off, is in
docs/adr/0019.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from dagster_slurm.run_directory import RunDirectory
from dagster_slurm.slurm import commands
from dagster_slurm.transport import CompletedCommand, Transport, TreeEntry
from dagster_slurm.transport.content import archive_tree, held
from dagster_slurm.transport.shell import verb
from dagster_slurm.transport.shell_transport import refuse_upload, upload_timeout_seconds
from dagster_slurm.transport.together import Gathered, taken_apart

MOST = 16
"""How many sbatch run side by side at the far end; a login node counts a user's processes."""

_SMALL_BYTES = 256 << 10


@dataclass(frozen=True)
class Submission:
    """One try to submit.

    Args:
        directory: The attempt.
        generation: Which try it is.
        files: What the attempt is made of, unless it is there; in memory.
        patience_seconds: How long sbatch is waited for.
    """

    directory: RunDirectory
    generation: int
    files: Sequence[TreeEntry]
    patience_seconds: int


class Submissions:
    """Those to one cluster.

    Args:
        transport: The way to its login node.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._gathered = Gathered(self._serve, most=MOST)

    def ask(
        self, directory: RunDirectory, generation: int, files: Sequence[TreeEntry], *, patience_seconds: int
    ) -> CompletedCommand:
        """What submit.sh says of a try to submit, which may be asked for at any time again; `files` as `are_small`.

        Raises:
            InvalidRequestError: A name cannot be sent; see `archive_tree`.
            TransportError: What was sent did not arrive, or could not be written; nothing was submitted.
        """
        return self._gathered.ask(Submission(directory, generation, held(files), patience_seconds))

    def _serve(self, batch: Sequence[Submission]) -> Sequence[CompletedCommand]:
        # Of digits: what is not whole is named by it, as by a process id.
        nonce = str(uuid4().int)
        name, stream = _stream(batch, nonce)
        patience = max(each.patience_seconds for each in batch)
        claims = [each.directory.claim(each.generation) for each in batch]
        answer = self._transport.run(
            verb("submit", "dagster_slurm.cluster_scripts"),
            (nonce, str(patience), " ".join(commands.sbatch()), name, *claims),
            stdin=stream,
            timeout_seconds=upload_timeout_seconds(len(stream)) + patience,
        )
        if answer.returncode:
            what = posixpath.commonpath([each.directory.path for each in batch])
            refuse_upload(answer, what=what, host=self._transport.host)
        return taken_apart(answer, nonce, len(batch), host=self._transport.host)


def _stream(batch: Sequence[Submission], nonce: str) -> tuple[str, bytes]:
    """The trees as one stream, each at its path below the base, and the name of the checksums in it; empty if none."""
    files: list[TreeEntry] = []
    links: dict[str, str] = {}
    seen: set[str] = set()
    for each in batch:
        relative = each.directory.relative
        if not each.files or relative in seen:
            continue
        seen.add(relative)
        for entry in (*each.files, TreeEntry(f"claim/{each.generation}/stdout", f"{nonce}\n".encode())):
            files.append(replace(entry, name=f"runs/{relative}/{entry.name}"))
            if entry.name == "asset" and isinstance(entry.source, bytes):
                links[f"assets/{entry.source.decode().strip()}"] = f"../runs/{relative}"
    if not files:
        return "", b""
    for name, link in links.items():
        files.append(TreeEntry(name, link=link))
    archive = archive_tree(files)
    return archive.checksums_name, b"".join(archive.blocks())


def are_small(files: Sequence[TreeEntry]) -> bool:
    """Whether others may wait for them, and whether they may be held in memory."""
    try:
        sizes = [len(each.source) if isinstance(each.source, bytes) else each.source.stat().st_size for each in files]
    except OSError:
        # Whoever reads the files says what is wrong with them.
        return False
    return sum(sizes) <= _SMALL_BYTES
