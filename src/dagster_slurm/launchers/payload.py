"""The payload and the files that travel with it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dagster_slurm.errors import InvalidRequestError, PayloadNotFoundError
from dagster_slurm.transport import TreeEntry

PathLike = str | os.PathLike[str]
ExtraFiles = Mapping[str, PathLike] | Sequence[PathLike]


@dataclass(frozen=True)
class Payload:
    """What is run.

    Args:
        program: Its path as seen by the job: relative to the working directory, or absolute.
        interpreter: `python` for the environment's Python, `bash`, or None for a file that runs by itself.
        source: The file on this machine that becomes `program`; None if it lies on the cluster already.
    """

    program: str
    interpreter: str | None
    source: Path | None


def payload_from_path(path: PathLike, *, remote_path: str | None = None) -> Payload:
    """Find out how a file is to be run: `.py` by Python, `.sh` by bash, any other by its first line.

    Args:
        path: The file on this machine.
        remote_path: Where it lies on the cluster already; nothing is uploaded then, and `path` only
            tells its kind.

    Raises:
        PayloadNotFoundError: There is no such file.
        InvalidRequestError: It is neither Python nor shell, and cannot be run by itself.
    """
    if remote_path is not None:
        if not remote_path.startswith("/"):
            raise InvalidRequestError(f"remote_payload_path {remote_path!r} is not an absolute path")
        return Payload(remote_path, _interpreter_by_name(PurePosixPath(remote_path).suffix), None)
    source = _existing_file(path, "payload")
    interpreter = _interpreter_by_name(source.suffix)
    if interpreter is None and not _runs_by_itself(source):
        raise InvalidRequestError(
            f"The payload {source} cannot be run",
            hint="A payload is a `.py` or `.sh` file, or a program or script with a `#!` line.",
        )
    return Payload(source.name, interpreter, source)


def as_payload(payload: Payload | PathLike) -> Payload:
    """The payload itself, or the one that lies at a path of this machine.

    Raises:
        PayloadNotFoundError: There is no such file.
        InvalidRequestError: It cannot be run.
    """
    return payload if isinstance(payload, Payload) else payload_from_path(payload)


def work_files(payload: Payload, extra_files: ExtraFiles | None) -> list[TreeEntry]:
    """The content of the working directory: the payload and the extra files, which lie beside it.

    Args:
        payload: The payload.
        extra_files: Files or directories, put under their own names; or a mapping from the name in the
            working directory to the file on this machine.

    Raises:
        PayloadNotFoundError: One of them does not exist.
        InvalidRequestError: Two of them would have the same name.
    """
    entries = [] if payload.source is None else [TreeEntry(payload.program, payload.source, 0o700)]
    if isinstance(extra_files, (str, os.PathLike)):
        raise InvalidRequestError(f"extra_files is a list of files or a mapping, not one path, {extra_files!r}")
    named = (
        extra_files.items()
        if isinstance(extra_files, Mapping)
        else ((Path(path).name, path) for path in extra_files or ())
    )
    for name, path in named:
        entries += _entries(name, path)
    seen: set[str] = set()
    for entry in entries:
        if entry.name in seen:
            raise InvalidRequestError(
                f"Two files would be {entry.name!r} in the working directory",
                hint="Give extra_files as a mapping from name to file.",
            )
        seen.add(entry.name)
    return entries


def _entries(name: str, path: PathLike) -> Iterator[TreeEntry]:
    source = Path(path).expanduser()
    if source.is_dir():
        for file in sorted(file for file in source.rglob("*") if file.is_file()):
            yield TreeEntry(f"{name}/{file.relative_to(source).as_posix()}", file, _mode(file))
        return
    source = _existing_file(path, "extra file")
    yield TreeEntry(name, source, _mode(source))


def _existing_file(path: PathLike, what: str) -> Path:
    source = Path(path).expanduser()
    if not source.is_file():
        raise PayloadNotFoundError(
            f"The {what} {source.absolute()} is not a file of this machine",
            hint="Paths are relative to the working directory of Dagster; build them from `__file__`.",
        )
    return source


def _mode(file: Path) -> int:
    return 0o700 if os.access(file, os.X_OK) else 0o600


def _interpreter_by_name(suffix: str) -> str | None:
    return {".py": "python", ".sh": "bash"}.get(suffix)


def _runs_by_itself(source: Path) -> bool:
    with source.open("rb") as file:
        head = file.read(4)
    return head.startswith((b"#!", b"\x7fELF"))
